"""Affinities and their loss against loops over pixels in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.losses.affinity import AffinityLoss, neighbour_affinity, path_affinity, search_paths, sources


def way(y, x):
    """The pixels less than one pixel from the line from the origin to an offset, in its bounding box."""
    length = math.hypot(y, x)
    return [
        (b, a)
        for b in range(min(0, y), max(0, y) + 1)
        for a in range(min(0, x), max(0, x) + 1)
        if abs(y * a - x * b) / length < 1 - 1e-12
    ]


def test_radius_ten_on_eighty_pixels_has_the_published_numbers():
    paths = search_paths(10)
    assert len(paths.offsets) == 152
    assert len(paths.groups) == 20
    assert sources(torch.zeros(80, 80), paths).numel() == 4402
    assert path_affinity(torch.zeros(2, 80, 80), paths).shape == (2, 152, 71, 62)


def test_paths_are_those_near_the_line():
    paths = search_paths(7)
    listed = [group for lengths in paths.groups for group in lengths]
    for (y, x), places in zip(paths.offsets.tolist(), listed, strict=True):
        assert sorted(divmod(place, 13) for place in places.tolist()) == sorted((b, a + 6) for b, a in way(y, x))


def loop_loss(output, labels, radius):
    """Pair by pair; the mean over classes of what the docstring says."""
    edge = output[:, 0].sigmoid().numpy()
    output, labels = output.numpy(), labels.numpy()
    batch, classes, height, width = labels.shape
    reach = radius - 1
    offsets = [
        (y, x)
        for y in range(radius)
        for x in range(-reach, radius)
        if (y > 0 or x > 0) and y * y + x * x < radius * radius
    ]
    total, counted = 0.0, 0
    for k in range(classes):
        sums = {"back": [0.0, 0], "inside": [0.0, 0], "differ": [0.0, 0]}
        moves = {"back": 0.0, "inside": 0.0}
        for b in range(batch):
            for r in range(height - reach):
                for c in range(reach, width - reach):
                    for y, x in offsets:
                        one, other = int(labels[b, k, r, c]), int(labels[b, k, r + y, c + x])
                        if 255 in (one, other):
                            continue
                        affinity = 1 - max(edge[b, r + dy, c + dx] for dy, dx in way(y, x))
                        kind = "differ" if one != other else "inside" if one else "back"
                        value = -math.log(1 + 1e-5 - affinity if one != other else affinity + 1e-5)
                        sums[kind] = [sums[kind][0] + value, sums[kind][1] + 1]
                        if output.shape[1] == 3 and kind != "differ":
                            change = output[b, 1:, r, c] - output[b, 1:, r + y, c + x]
                            goal = (y, x) if kind == "inside" else (0, 0)
                            moves[kind] += sum(abs(d - g) for d, g in zip(change, goal, strict=True)) / 2
        mean = {kind: value / max(count, 1) for kind, (value, count) in sums.items()}
        loss = ((mean["back"] + mean["inside"]) / 2 + mean["differ"]) / 2
        loss += sum(moves[kind] / max(sums[kind][1], 1) for kind in moves) / 2
        if any(count for _, count in sums.values()):
            total, counted = total + loss, counted + 1
    return total / max(counted, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_equals_a_loop_over_pairs(channels):
    torch.manual_seed(0)
    output = torch.randn(2, channels, 8, 9, dtype=torch.float64) * 2
    labels = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(0, 3, (2, 3, 8, 9))]
    labels[:, 2] = 255  # a class of which nothing is known counts for nothing
    found = AffinityLoss(radius=4)(output, labels)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(loop_loss(output, labels, 4), rel=1e-12)


def test_labels_are_taken_at_the_middle_of_their_cells():
    torch.manual_seed(1)
    output = torch.randn(1, 1, 8, 8)
    small = torch.randint(0, 2, (1, 2, 8, 8), dtype=torch.uint8)
    large = torch.randint(0, 2, (1, 2, 32, 32), dtype=torch.uint8)
    large[..., 2::4, 2::4] = small
    assert AffinityLoss(3)(output, large) == AffinityLoss(3)(output, small)


def test_nothing_known_gives_zero_with_a_gradient():
    output = torch.randn(1, 3, 12, 12, requires_grad=True)
    loss = AffinityLoss(4)(output, torch.full((1, 2, 12, 12), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert not output.grad.any()


def test_training_on_it_puts_edges_between_the_labels():
    labels = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    labels[..., 8:] = 1
    output = torch.zeros(1, 1, 16, 16, requires_grad=True)
    optimizer, loss = torch.optim.SGD([output], 30.0), AffinityLoss(4)
    for _ in range(40):
        optimizer.zero_grad()
        loss(output, labels).backward()
        optimizer.step()
    edge = output.detach().sigmoid()[0, 0, :12].mean(0)
    assert edge[7:9].max() > 0.8
    assert edge[2:6].max() < 0.4


def test_neighbours_beyond_the_image_have_no_affinity_and_pairs_are_symmetric():
    torch.manual_seed(2)
    edge = torch.rand(1, 7, 8, dtype=torch.float64)
    affinity, offsets = neighbour_affinity(edge, 4)
    affinity, edge = affinity.numpy(), edge.numpy()
    for n, (y, x) in enumerate(offsets.tolist()):
        for r in range(7):
            for c in range(8):
                inside = 0 <= r + y < 7 and 0 <= c + x < 8
                expected = 0.0
                if inside and (y, x) == (0, 0):
                    expected = 1.0
                elif inside:
                    expected = 1 - max(edge[0, r + dy, c + dx] for dy, dx in way(y, x))
                assert affinity[0, n, r, c] == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_is_refused():
    with pytest.raises(CxrError, match="2 pixels or more"):
        search_paths(1)
    with pytest.raises(CxrError, match="too small for a radius of 10"):
        AffinityLoss(10)(torch.zeros(1, 1, 18, 18), torch.zeros(1, 1, 18, 18, dtype=torch.uint8))
