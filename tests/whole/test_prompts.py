"""What is said of a prompt that does not count."""

import pytest
from command import scene

from seada_core import Colorizer
from seada_core.steering import prompt_notices


@pytest.fixture(scope="module")
def mini():
    return Colorizer.from_pretrained("mini", "cpu")


@pytest.mark.parametrize("prompt", ["ein rotes Auto auf der Straße", "une voiture rouge", "赤い車", "красная машина"])
def test_other_languages_are_named(mini, prompt):
    [notice] = prompt_notices(mini, prompt)
    assert "write the prompt in English" in notice and prompt.split()[-1].lower() in notice


@pytest.mark.parametrize(
    "prompt", ["", "boat", "a red car on a street", "a samurai with a katana", "grandmother in her kitchen, 1931"]
)
def test_english_is_taken_as_it_is(mini, prompt):
    assert prompt_notices(mini, prompt) == []


def test_the_command_says_it_once(run, tmp_path):
    for name in "ab":
        scene().convert("L").save(tmp_path / f"{name}.png")
    status, _, err = run(
        tmp_path, "-o", tmp_path / "out", "--prompt", "a dog, a red blue dog", "--steps", 1, "--no-words"
    )
    assert status == 0
    assert [line for line in err if "two colours, red and blue: red counts" in line] == err[:1]
