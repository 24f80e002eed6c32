"""What is claimed of speed, memory and quality, and how it was measured: RESULTS.md."""


def machine(device: str = "cpu") -> str:
    """The machine, the versions and the date, in one line, to print above what was measured."""
    import datetime
    import os
    import platform
    from pathlib import Path

    import diffusers
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
        name = f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}"
    return f"{name}; {versions}; {datetime.date.today()}"
