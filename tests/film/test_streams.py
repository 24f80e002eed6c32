import numpy as np
import pytest
from films import panning, texture, write_film

pytest.importorskip("cv2")
pytest.importorskip("av")

from seada_core.film.planes import Layout
from seada_core.film.streams import FilmError, frames, probe
from seada_core.film.writing import Encoding


def test_frames_come_with_their_times_and_untouched_luminance(tmp_path):
    pictures, times = panning(12), [0, 40, 80, 200, 240, 280, 300, 320, 900, 940, 980, 1020]  # a variable rate
    film = probe(write_film(tmp_path / "film.mkv", pictures, pts=times))
    assert film.size == (48, 64)
    assert film.notes == ()
    found = list(frames(film))
    assert [round(frame.pts * film.time_base * 1000) for frame in found] == times
    for frame, picture in zip(found, pictures):
        assert np.array_equal(frame.luma, picture)


def test_reading_starts_at_any_frame(tmp_path):
    film = probe(write_film(tmp_path / "film.mp4", panning(30)))
    whole = list(frames(film))
    for first in (1, 7, 8, 9, 29):
        some = list(frames(film, whole[first].pts))
        assert [frame.pts for frame in some] == [frame.pts for frame in whole[first:]]
        assert np.array_equal(some[0].luma, whole[first].luma)
    assert [f.pts for f in frames(film, whole[5].pts, whole[9].pts, after=True)] == [f.pts for f in whole[6:10]]


@pytest.mark.parametrize(
    ("name", "options", "layout"),
    [
        ("ten.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p10le"}, Layout("bt601", False, 10)),
        (
            "full.mkv",
            {"codec": "ffv1", "pix_fmt": "yuv444p", "tags": {"color_range": 2}},
            Layout("bt601", True, 8, 1, 1),
        ),
        ("gray.mkv", {"codec": "ffv1", "pix_fmt": "gray"}, Layout("bt601", True)),
        ("hd.mkv", {"codec": "ffv1", "pix_fmt": "yuv422p", "tags": {"colorspace": 1}}, Layout("bt709", down=1)),
    ],
)
def test_depths_ranges_and_matrices(tmp_path, name, options, layout):
    pictures = panning(3)
    if layout.bits == 10:
        pictures = [picture.astype(np.uint16) * 4 + 1 for picture in pictures]
    film = probe(write_film(tmp_path / name, pictures, **options))
    assert film.layout == layout
    assert [np.array_equal(frame.luma, picture) for frame, picture in zip(frames(film), pictures)] == [True] * 3


def test_rgb_becomes_luminance(tmp_path):
    import av

    path, gray = tmp_path / "rgb.mkv", texture(48, 64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        picture = av.VideoFrame.from_ndarray(np.stack([gray] * 3, -1), format="rgb24").reformat(format="bgr0")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    film = probe(path)
    (frame,) = frames(film)
    luma = film.layout.luminance(frame.luma, (48, 64))
    assert abs(luma * 255 - gray).max() < 2.5


def test_odd_sizes(tmp_path):
    film = probe(write_film(tmp_path / "odd.mkv", panning(2, 47, 63), codec="ffv1"))
    assert film.size == (47, 63)
    assert (film.layout.across, film.layout.down) == (1, 1)
    assert next(frames(film)).luma.shape == (47, 63)


def test_a_rotated_film_is_turned_upright(tmp_path):
    import av

    plain, turned = write_film(tmp_path / "plain.mp4", panning(2)), tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(turned), "w") as result:
        stream = result.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes no rotation")
        stream.set_display_rotation(90)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                result.mux(packet)
    film = probe(turned)
    assert film.size == (64, 48)
    assert np.array_equal(next(frames(film)).luma, np.rot90(panning(2)[0], film.turns))
    with av.open(str(turned)) as container:
        assert film.turns == round(next(container.decode(video=0)).rotation / 90) % 4 != 0


def test_luminance_and_chroma_planes_are_inverse_to_decoding():
    import av
    import torch

    layout = Layout("bt709", False, 8, 1, 1)
    plane = np.full((16, 24), 120, np.uint8)
    chroma = torch.tensor([0.1, -0.08]).view(1, 2, 1, 1).expand(1, 2, 16, 24)
    blue, red = layout.chroma_planes(plane, chroma)
    frame = av.VideoFrame(24, 16, "yuv444p")
    for target, values in zip(frame.planes, (plane, blue, red)):
        lines = np.zeros((16, target.line_size), np.uint8)
        lines[:, :24] = values
        target.update(lines)
    rgb = frame.reformat(format="rgb24", src_colorspace="itu709", src_color_range=1).to_ndarray()[4, 4] / 255
    luma = layout.luminance(plane, (16, 24))[0, 0]
    cb, cr = (rgb[2] - (rgb @ [0.299, 0.587, 0.114])) / 1.772, (rgb[0] - (rgb @ [0.299, 0.587, 0.114])) / 1.402
    assert (cb, cr) == pytest.approx((0.1, -0.08), abs=0.01)
    assert rgb @ [0.2126, 0.7152, 0.0722] == pytest.approx(luma, abs=0.01)


# --- films that cannot be read ----------------------------------------------------------------------------------------


def test_no_film(tmp_path):
    text = tmp_path / "film.mp4"
    text.write_text("not a film")
    with pytest.raises(FilmError, match=r"film\.mp4 cannot be read as a film"):
        probe(text)
    with pytest.raises(FilmError, match="No such file"):
        probe(tmp_path / "missing.mp4")


def test_sound_alone(tmp_path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(FilmError, match="no video stream"):
        probe(path)


def test_a_truncated_film(tmp_path):
    whole = write_film(tmp_path / "film.mkv", panning(100), codec="ffv1")
    short = tmp_path / "short.mkv"
    short.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    with pytest.raises(FilmError, match=r"truncated|damaged"):
        probe(short)


def test_hdr_is_refused(tmp_path):
    tags = {"color_trc": 16, "color_primaries": 9, "colorspace": 9}
    path = write_film(
        tmp_path / "hdr.mkv", [np.full((48, 64), 400, np.uint16)] * 2, codec="ffv1", pix_fmt="yuv420p10le", tags=tags
    )
    with pytest.raises(FilmError, match=r"PQ.*convert it to SDR"):
        probe(path)


def test_a_film_in_colour_is_noted(tmp_path):
    import av

    path = tmp_path / "color.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (200, 90, 40), np.uint8), format="rgb24")
        container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    assert "has colours already" in probe(path).notes[0]


def test_times_outside_the_film(tmp_path):
    film = probe(write_film(tmp_path / "film.mp4", panning(25)))
    assert film.seconds(film.near(0.5)) == pytest.approx(0.5, abs=0.03)
    with pytest.raises(FilmError, match=r"3\.00 s is not in .*, which has 1\.00 s"):
        film.near(3.0)


def test_encoders_that_are_not_there(tmp_path):
    with pytest.raises(FilmError, match=r"no encoder 'libnothing'.*libx264"):
        Encoding.for_target(tmp_path / "film.mp4", "libnothing")
    with pytest.raises(FilmError, match=r"film\.gif: results can be written as \.mp4"):
        Encoding.for_target(tmp_path / "film.gif")
    with pytest.raises(FilmError, match=r"film\.webm cannot hold libx264"):
        Encoding.for_target(tmp_path / "film.webm", "libx264")
    assert Encoding.for_target(tmp_path / "film.webm").codec == "libvpx-vp9"
