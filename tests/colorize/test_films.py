"""Films on the command line."""

import json
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from command import ROOT
from films import decoded, packets, panning, texture, write_film
from PIL import Image

pytest.importorskip("cv2")
pytest.importorskip("av")

from seada_core.film import segments, work

KILLS = 10
PROMPT = ("--prompt", "a dog", "--steps", "1", "--guidance", "1", "--saturation", "3")


@pytest.fixture
def film(tmp_path):
    """24 frames, a cut in the middle, and a tone that is longer."""
    return write_film(tmp_path / "film.mp4", panning(12, seed=1) + panning(12, seed=2), sound=True, seconds=1.5)


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(work, "LENGTH", 5)
    monkeypatch.setattr(segments, "LENGTH", 5)


def test_a_film_keeps_luminance_times_and_sound(run, film, short_segments):
    target = film.with_name("out.mp4")
    status, out, err = run(film, "-o", target, "--crf", "0", *PROMPT)
    assert (status, err) == (0, [])
    assert "24 frames" in out[0]
    before, after = decoded(film), decoded(target)
    assert [time for time, _ in after] == [time for time, _ in before]
    for (_, old), (_, new) in zip(before, after):
        assert np.array_equal(old[0], new[0])
    assert max(abs(planes[1].astype(int) - 128).max() for _, planes in after) > 3  # it is in colour
    assert packets(film, "audio") == packets(target, "audio")
    assert sorted(path.name for path in film.parent.iterdir()) == ["film.mp4", "out.mp4"]


@pytest.mark.slow
def test_subtitles_and_chapters_stay(run, film, tmp_path):
    import av

    source, target = tmp_path / "titled.mkv", tmp_path / "out.mkv"
    (tmp_path / "titles.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n\n")
    with (
        av.open(str(film)) as plain,
        av.open(str(tmp_path / "titles.srt")) as titles,
        av.open(str(source), "w") as made,
    ):
        streams = {id(stream): made.add_stream_from_template(stream) for stream in (*plain.streams, *titles.streams)}
        if not hasattr(made, "set_chapters"):
            pytest.skip("this PyAV writes no chapters")
        chapter = {"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}
        made.set_chapters([chapter])
        for container in (titles, plain):
            for packet in container.demux():
                if packet.size:
                    packet.stream = streams[id(packet.stream)]
                    made.mux(packet)
    assert run(source, "-o", target, *PROMPT)[0] == 0
    with av.open(str(target)) as result:
        assert [stream.type for stream in result.streams] == ["video", "audio", "subtitle"]
        assert [bytes(p) for p in result.demux(result.streams.subtitles[0]) if p.size] == [b"Hello"]
        assert [chapter["metadata"]["title"] for chapter in result.chapters()] == ["One"]
    _, _, err = run(source, "-o", tmp_path / "out.mp4", *PROMPT)
    assert "subtitle stream 2 was skipped" in err[0]


@pytest.mark.slow
def test_names_of_results(run, film, tmp_path):
    assert run(film, *PROMPT)[0] == 0
    assert (tmp_path / "film-color.mp4").exists()
    status, _, err = run(film, *PROMPT)
    assert status == 1
    assert "film-color.mp4 exists; use --overwrite" in err[0]
    (tmp_path / "results").mkdir()
    status, out, _ = run(film, "-o", tmp_path / "results", "--json", *PROMPT)
    assert (tmp_path / "results" / "film.mp4").exists()
    record = json.loads(out[0])
    assert (status, record["frames"], record["error"]) == (0, 24, None)


def test_an_interrupted_film_goes_on_with_the_same_frames(run, film, monkeypatch, short_segments):
    whole, target = film.with_name("whole.mp4"), film.with_name("out.mp4")
    assert run(film, "-o", whole, *PROMPT)[0] == 0
    write, left = work.SegmentWriter.write, [11]

    def interrupted(self, frame, chroma):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        write(self, frame, chroma)

    monkeypatch.setattr(work.SegmentWriter, "write", interrupted)
    status, _, err = run(film, "-o", target, *PROMPT)
    assert status == 130
    assert "the same command goes on" in err[-1]
    assert not target.exists()
    kept = film.with_name(".out.mp4.segments")
    assert list(kept.glob("0*.nut")) == [kept / "00000000-00000008.nut"]
    status, _, err = run(film, "-o", target, *PROMPT, "--seed", "5")
    assert status == 1
    assert "other options" in err[0]
    written = []
    monkeypatch.setattr(work.SegmentWriter, "write", lambda *a: (written.append(a[1].pts), write(*a)))
    assert run(film, "-o", target, "--overwrite", *PROMPT)[0] == 0
    assert len(written) == 15  # not again what was done
    assert target.read_bytes() == whole.read_bytes()
    assert not kept.exists()


def test_a_part_of_a_film(run, film):
    target = film.with_name("part.mkv")
    assert run(film, "-o", target, "--start", "0.2", "--end", "0:00.6", "--crf", "0", *PROMPT)[0] == 0
    before, after = decoded(film), decoded(target)
    assert len(after) == 11
    assert np.array_equal(before[5][1][0], after[0][1][0])
    assert after[0][0] == 0
    assert packets(target, "audio")[-1][0] < 0.45


def test_a_folder_of_numbered_frames(run, tmp_path):
    folder, target = tmp_path / "frames", tmp_path / "color"
    folder.mkdir()
    for number, frame in enumerate(panning(11)):
        Image.fromarray(frame).save(folder / f"shot-{number + 1}.png")
    assert run(folder, "--film", "-o", target, *PROMPT)[0] == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in target.iterdir():
        old, new = (np.asarray(Image.open(p / path.name).convert("L")).astype(int) for p in (folder, target))
        assert abs(old - new).max() <= 1
    Image.fromarray(texture(20, 20)).save(folder / "shot-12.png")
    status, _, err = run(folder, "--film", "-o", target, "--overwrite", *PROMPT)
    assert status == 1
    assert "shot-12.png is 20×20" in err[0]


def test_a_coloured_still_colours_its_shot(run, film, tmp_path):
    still = tmp_path / "still.png"
    Image.new("RGB", (128, 96), (60, 60, 220)).save(still)  # of the film's shape, at another size
    assert run(film, "-o", tmp_path / "a.mp4", "--keyframe", f"0.24={still}", "--crf", "0", *PROMPT)[0] == 0
    assert run(film, "-o", tmp_path / "b.mp4", "--crf", "0", *PROMPT)[0] == 0
    blue = [np.mean(planes[1]) for _, planes in decoded(tmp_path / "a.mp4")]
    plain = [np.mean(planes[1]) for _, planes in decoded(tmp_path / "b.mp4")]
    assert min(blue[:12]) > 150
    assert np.allclose(blue[12:], plain[12:], atol=0.01)


def test_hints_of_a_frame(run, film, tmp_path):
    hints = tmp_path / "hints.json"
    hints.write_text('[{"x": 20, "y": 20, "color": "#3040e0", "radius": 8}]')
    assert run(film, "-o", tmp_path / "a.mp4", "--hints", f"00:00:00.2={hints}", "--crf", "0", *PROMPT)[0] == 0
    assert run(film, "-o", tmp_path / "b.mp4", "--crf", "0", *PROMPT)[0] == 0
    with_hints, plain = (decoded(tmp_path / name) for name in ("a.mp4", "b.mp4"))
    for number in (0, 5, 11):  # the camera moves by a pixel a frame
        x = 20 + 5 - number
        here = np.s_[9:12, (x - 2) // 2 : (x + 4) // 2]
        assert with_hints[number][1][1][here].mean() > plain[number][1][1][here].mean() + 8
    assert np.array_equal(with_hints[20][1][1], plain[20][1][1])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--keyframe", "9=still.png"], 1, "9.00 s is not in"),
        (["--keyframe", "0=wide.png"], 1, "is 90×30, the film 64×48"),
        (["--keyframe", "0=gray.png"], 1, "is grey; a key frame gives colours"),
        (["--keyframe", "0=missing.png"], 2, "missing.png does not exist"),
        (["--keyframe", "still.png"], 2, "expected TIME=FILE"),
        (["--start", "a"], 2, "is not a time"),
        (["--start", "1", "--end", "0.5"], 2, "is not before"),
        (["--codec", "libnothing"], 1, "no encoder 'libnothing'"),
        (["-o", "film.gif"], 1, "results can be written as"),
        (["--variants", "2"], 2, "--variants is not for films"),
        (["still.png"], 2, "is not a film"),
    ],
)
def test_bad_arguments(run, film, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "red").save("still.png")
    Image.new("RGB", (90, 30), "red").save("wide.png")
    Image.new("L", (64, 48)).save("gray.png")
    found, _, err = run("film.mp4", *arguments)
    assert (found, len(err)) == (status, 1)
    assert message in err[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "gray.png", "still.png", "wide.png"]


def test_film_options_without_a_film(run, photo):
    status, _, err = run(photo, "--end", "3")
    assert status == 2
    assert "--end is for films" in err[0]


def test_a_full_disk_keeps_what_is_done(run, film, monkeypatch, short_segments):
    write, left = work.SegmentWriter.write, [9]

    def full(self, frame, chroma):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        write(self, frame, chroma)

    monkeypatch.setattr(work.SegmentWriter, "write", full)
    status, _, err = run(film, "-o", film.with_name("out.mp4"), *PROMPT)
    assert status == 1
    assert "the disk is full; what is done is kept" in err[0]
    assert not film.with_name("out.mp4").exists()


@pytest.mark.slow
def test_without_opencv(film, tiny_model):
    code = "import sys; sys.modules['cv2'] = None; from seada_core.colorize.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(film), "--model", str(tiny_model)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "error: films need OpenCV for their motion: pip install opencv-python-headless\n"


@pytest.mark.slow
def test_kills_do_not_change_a_film(tiny_model, tmp_path):
    """The process is killed ten times, at moments drawn from all of a run: its start, its frames, and its end."""
    film = write_film(tmp_path / "film.mp4", panning(90, seed=1) + panning(90, seed=2), sound=True)
    code = (
        "import sys; from seada_core.film import work; work.LENGTH = 2; "
        "from seada_core.colorize.__main__ import main; sys.exit(main())"
    )

    def start(target):
        argv = [str(film), "-o", str(target), "--spacing", "1", "--model", str(tiny_model), "--device", "cpu", *PROMPT]
        return subprocess.Popen([sys.executable, "-c", code, *argv], cwd=ROOT)

    begun = time.monotonic()
    assert start(tmp_path / "whole.mp4").wait() == 0
    seconds, whole = time.monotonic() - begun, (tmp_path / "whole.mp4").read_bytes()
    target, folder = tmp_path / "out.mp4", tmp_path / ".out.mp4.segments"
    generator, kept = np.random.default_rng(0), []
    while len(kept) < KILLS:
        process = start(target)
        try:
            assert process.wait(generator.uniform(0, seconds)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kept.append(len(list(folder.glob("0*.nut"))))
        if target.exists():  # it was done before it was killed: begin again
            assert target.read_bytes() == whole
            target.unlink()
    assert start(target).wait() == 0
    assert target.read_bytes() == whole
    assert len(set(kept)) > KILLS // 3  # the moments were in many places of the film
