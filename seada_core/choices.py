"""Names that options are chosen from, apart from what acts on them: `--help` needs nothing else."""

HINT_METHODS = ("modulation", "guidance", "propagation")  # see `ColorizeOptions`
SCHEDULERS = ("ddim", "unipc", "dpm++")  # see `models.solvers.solver`
