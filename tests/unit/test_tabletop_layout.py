"""Things stand where they physically can, have names of their own, and stay within their split."""

import numpy as np
import pytest
from tests.solids import is_inside, surface, to_object, to_world

from egem.worlds.tabletop import meshes
from egem.worlds.tabletop.body import Body
from egem.worlds.tabletop.catalog import COLORS, NEW_SHAPES, SIZES, is_new, pairs, unique_names
from egem.worlds.tabletop.layout import Thing, apart, draw_layout, find_spot
from egem.worlds.tabletop.shapes import SHAPES

NUM_LAYOUTS = 25


@pytest.fixture(scope="module")
def layouts() -> list:
    splits = ("train", "new_objects")
    return [draw_layout(np.random.default_rng([7, seed]), splits[seed % 2]) for seed in range(NUM_LAYOUTS)]


def test_nothing_is_inside_the_matter_of_another(layouts: list) -> None:
    rng = np.random.default_rng(0)
    for things in layouts:
        clouds = [to_world(surface(t.body, rng), t.pose) for t in things]
        for i, cloud in enumerate(clouds):
            assert cloud[:, 2].min() > -1e-6, things[i].name
            for j, other in enumerate(things):
                if i != j:
                    deep = is_inside(to_object(cloud, other.pose), other.body, 0.0015)
                    assert not deep.any(), (things[i].name, other.name, things[i].relation)


def test_everything_rests_on_something(layouts: list) -> None:
    rng = np.random.default_rng(1)
    hosted = 0
    for things in layouts:
        for thing in things:
            cloud = to_world(surface(thing.body, rng, 1500), thing.pose)
            if thing.host is None:
                assert abs(cloud[:, 2].min()) < 0.0015, thing.name
                continue
            hosted += 1
            # Three millimetres lower it would be in its host's matter.
            host = things[thing.host]
            assert is_inside(to_object(cloud - (0, 0, 0.003), host.pose), host.body, 0.0).any(), thing.name
            assert host.host is None
    assert hosted > 8


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ("ball", "cone", "ring", "bottle")])
def test_things_on_and_in_others_touch_without_sinking_in(shape: str) -> None:
    rng, places = np.random.default_rng(2), set()
    for scale in (scale for sizes in SIZES.values() for scale in sizes):
        host = _thing(SHAPES[shape].build(scale, rng))
        for guest_shape in ("cube", "block", "cylinder", "ball", "cone", "ring", "arch", "mug", "bottle"):
            guest = SHAPES[guest_shape].build(float(rng.choice(SIZES["small"] + SIZES["large"])), rng)
            for rest in host.body.rests:
                spot = find_spot(guest, 0, rest, [host], rng)
                if spot is None:
                    continue
                places.add(rest.relation)
                cloud = to_world(surface(guest, rng), _thing(guest, *spot).pose)
                assert not is_inside(cloud, host.body, 0.0012).any(), (guest_shape, scale)
                # Steep walls: five millimetres down are less than one sideways.
                assert is_inside(cloud - (0, 0, 0.005), host.body, 0.0).any(), (guest_shape, scale)
    assert places == {"mug": {"inside"}, "bowl": {"inside"}, "pan": {"inside"}, "box": {"inside"}}.get(
        shape, {"on", "inside"} if shape == "drawer" else {"on"}
    )


def test_inside_is_within_the_walls(layouts: list) -> None:
    for things in layouts:
        for thing in things:
            if thing.host is not None and thing.relation == "inside":
                host = things[thing.host]
                assert host.body.is_container
                assert host.body.is_open
                local = to_object(np.array([thing.position]), host.pose)[0]
                assert (local > host.body.low - 1e-6).all()
                assert (local < host.body.high + 1e-6).all()


def test_names_are_unique_and_true(layouts: list) -> None:
    for things in layouts:
        assert len({t.name for t in things}) == len(things)
        for thing in things:
            words = thing.name.split()
            assert words[-2:] == [thing.color, thing.body.shape]
            assert all(
                word in (thing.size, thing.material)
                or (word == "plain" and thing.material in ("matte", "glossy"))
                for word in words[:-2]
            )


def test_names_are_as_short_as_they_can_be() -> None:
    assert unique_names([("mug", "red", "small", "matte"), ("mug", "blue", "small", "matte")]) == [
        "red mug",
        "blue mug",
    ]
    assert unique_names([("mug", "red", "small", "matte"), ("mug", "red", "large", "glossy")]) == [
        "small red mug",
        "large red mug",
    ]
    assert unique_names([("mug", "red", "small", "striped"), ("mug", "red", "medium", "glossy")]) == [
        "striped red mug",
        "plain red mug",
    ]
    three = [
        ("cube", "red", "small", "matte"),
        ("cube", "red", "large", "matte"),
        ("cube", "red", "small", "wooden"),
    ]
    assert unique_names(three) == ["small plain red cube", "large plain red cube", "small wooden red cube"]
    # Matte or glossy, small or medium: not to be told apart in a small picture.
    assert unique_names([("mug", "red", "small", "matte"), ("mug", "red", "medium", "glossy")]) is None


def test_new_objects_never_occur_in_training() -> None:
    shapes = tuple(SHAPES)
    seen, new = set(pairs("train", shapes)), set(pairs("new_objects", shapes))
    assert seen == set(pairs("held_out", shapes)) == set(pairs("new_cameras", shapes))
    assert not seen & new
    assert seen | new == {(s, c) for s in shapes for c in COLORS}
    for shape in shapes:
        num = sum(is_new(shape, color, shapes) for color in COLORS)
        assert num == (len(COLORS) if shape in NEW_SHAPES else len(COLORS) / 6)
    # Every colour is seen, and every seen shape.
    assert {c for _, c in seen} == set(COLORS)
    assert {s for s, _ in seen} == set(shapes) - set(NEW_SHAPES)


def test_layouts_keep_to_their_split() -> None:
    for seed in range(12):
        for split in ("train", "new_objects"):
            for thing in draw_layout(np.random.default_rng(seed), split):
                assert is_new(thing.body.shape, thing.color, tuple(SHAPES)) == (split == "new_objects")


@pytest.mark.parametrize("shape", list(SHAPES))
def test_box_and_outline_enclose_the_shape(shape: str) -> None:
    for seed, scale in enumerate(s for sizes in SIZES.values() for s in sizes):
        body = SHAPES[shape].build(scale, np.random.default_rng(seed))
        cloud = surface(body, np.random.default_rng(0))
        assert (cloud >= body.low - 1e-9).all()
        assert (cloud <= body.high + 1e-9).all()
        reached = cloud.max(axis=0) - cloud.min(axis=0)
        assert (reached > 0.9 * (body.high - body.low)).all()
        edges = np.roll(body.footprint, -1, axis=0) - body.footprint
        outward = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        away = ((cloud[:, None, :2] - body.footprint) * outward).sum(axis=-1)
        assert (away <= 1e-9).all()
        assert (body.high - body.low).min() > 0.012
        assert (body.high - body.low).max() < 0.36


@pytest.mark.parametrize("name", meshes.NAMES)
def test_meshes_are_closed_and_face_outwards(name: str) -> None:
    vertices, normals, faces = meshes.build(name, 1.0)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-9)
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fi,fi->f", face_normals, normals[faces].mean(axis=1)) > 0).all()
    if name != "mug_handle":
        # Divergence theorem: the enclosed volume is positive only when faces look outwards.
        volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
        if name == "ring":
            expected = 2 * np.pi**2 * meshes.RING_RADIUS * meshes.RING_TUBE**2
        else:
            profile = np.array(meshes.PROFILES[name])
            r0, z0, r1, z1 = *profile.T, *np.roll(profile, -1, axis=0).T
            expected = np.pi / 3 * np.sum((z1 - z0) * (r0**2 + r0 * r1 + r1**2))
        assert volume == pytest.approx(expected, rel=0.06)


def test_apart_against_sampled_points() -> None:
    rng = np.random.default_rng(3)
    overlapping = 0
    for _ in range(200):
        a, b = (
            np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(0.2, 1, 2) @ turn
            + rng.uniform(-1.2, 1.2, 2)
            for turn in (_turn(rng.uniform(0, 7)), _turn(rng.uniform(0, 7)))
        )
        grid = a[0] + rng.random((900, 2)) @ np.stack([a[1] - a[0], a[3] - a[0]])
        edges = np.roll(b, -1, axis=0) - b
        side = edges[:, 0] * (grid[:, None, 1] - b[:, 1]) - edges[:, 1] * (grid[:, None, 0] - b[:, 0])
        overlap = bool((side > 0).all(axis=1).any())
        overlapping += overlap
        assert not (overlap and apart(a, b, 0.0))
        distance = np.linalg.norm(a[:, None] - b, axis=-1).min()
        if apart(a, b, 0.3):
            assert distance >= 0.3
    assert 50 < overlapping < 190


def _thing(body: Body, position: tuple[float, float, float] = (0.0, 0.0, 0.0), yaw: float = 0.0) -> Thing:
    return Thing(body=body, name="", color="red", size="small", material="matte", position=position, yaw=yaw)


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
