"""The frames between a host and a User-Mode Linux machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.lab.machine import frames
from kubeproxy.lab.machine.frames import Decoder, Frame, FrameError, Kind

pytestmark = pytest.mark.unit

FRAMES = st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=300))


@given(st.lists(FRAMES), st.lists(st.integers(1, 40), min_size=1))
def test_frames_survive_a_stream_cut_anywhere(sent: list[Frame], cuts: list[int]) -> None:
    stream, decoder, heard = b"".join(map(frames.encode, sent)), Decoder(), []
    turn = 0
    while stream:
        cut = cuts[turn % len(cuts)]
        heard += decoder.feed(stream[:cut])
        stream, turn = stream[cut:], turn + 1
    assert heard == sent


def test_bodies_with_a_form_of_their_own_come_back() -> None:
    sent = (
        frames.encode_json(Kind.OPEN, 7, argv=["a"])
        + frames.counted(Kind.CREDIT, 7, 70_000)
        + frames.window(7, 50, 132)
        + frames.signalled(7, 2)
    )
    opened, credit, window, signal = Decoder().feed(sent)
    assert frames.values(opened) == {"argv": ["a"]}
    assert frames.count(credit) == 70_000
    assert frames.size(window) == (50, 132)
    assert signal == Frame(Kind.SIGNAL, 7, b"\x02")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff" + bytes(8), "unknown kind 255"),
        (b"\x01" + bytes(4) + b"\xff" * 4, "a frame of 4294967295 bytes"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        list(Decoder().feed(data))


@pytest.mark.parametrize("body", [b"", b"[1]", b"\xff"])
def test_a_wrong_body_is_refused(body: bytes) -> None:
    for read in (frames.values, frames.count, frames.size):
        with pytest.raises(FrameError):
            read(Frame(Kind.OPEN, 1, body))
