"""Soft hints of masks: colours where the masks are, borders at the photo's edges, clear errors."""

import pytest
import torch

from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.hints.masks import fit_to_edges, mask_hints

TEAL = rgb_to_ycbcr(torch.tensor([0, 128, 128]).view(1, 3, 1, 1) / 255)[0, 1:, 0, 0]


def halves(height: int = 192, width: int = 256) -> torch.Tensor:
    """A photo that is dark on the left and bright from column 128 on."""
    gray = torch.full((1, 1, height, width), 0.2)
    gray[..., width // 2 :] = 0.8
    return gray


def test_a_border_moves_to_the_photos_edge():
    gray, mask = halves(), torch.zeros(1, 1, 192, 256)
    mask[..., :125] = 1  # 3 px short of the edge
    before, after = (((m > 0.5).float() - (gray < 0.5).float()).abs().mean() for m in (mask, fit_to_edges(mask, gray)))
    assert after < 0.4 * before
    assert fit_to_edges(mask, gray)[..., :100].min() > 0.99 and fit_to_edges(mask, gray)[..., 160:].max() < 0.01


def test_colours_and_order_of_masks():
    gray, masks = halves(), torch.zeros(2, 48, 64)
    masks[0, :, :40], masks[1, :, 20:] = 1, 1
    found = mask_hints(gray, masks, ["teal", "#c03030"], fit=False)
    assert found.shape == (1, 3, 192, 256) and found[0, 2].min() == 1
    torch.testing.assert_close(found[0, :2, 90, 20], TEAL)
    red = rgb_to_ycbcr(torch.tensor([192, 48, 48]).view(1, 3, 1, 1) / 255)[0, 1:, 0, 0]
    torch.testing.assert_close(found[0, :2, 90, 120], red)  # where both are, the later one
    # no column mixes the two
    apart = torch.stack([(found[0, :2, 90] - color[:, None]).norm(dim=0) for color in (TEAL, red)])
    assert apart.amin(0).max() < 1e-6
    one = mask_hints(gray, masks, ["teal"], fit=False)
    torch.testing.assert_close(one[0, :2, 90, 250], TEAL)


def test_soft_masks_weigh_and_wrong_numbers_are_refused():
    found = mask_hints(halves(), torch.full((1, 10, 10), 0.3), ["teal"])
    assert found[0, 2].mean() == pytest.approx(0.3, abs=0.01)
    with pytest.raises(ValueError, match="2 colours for 3 masks: expected one for each, or one for all"):
        mask_hints(halves(), torch.ones(3, 8, 8), ["teal", "red"])
    with pytest.raises(ValueError, match="bad colour 'reddish'"):
        mask_hints(halves(), torch.ones(1, 8, 8), ["reddish"])
