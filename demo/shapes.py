"""Signed distances of plain shapes, negative inside: offsets x, y (y pointing down) and the shape in one unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Point = tuple[float, float]


def circle(x: Tensor, y: Tensor, cx: float, cy: float, radius: float) -> Tensor:
    return torch.hypot(x - cx, y - cy) - radius


def ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float) -> Tensor:
    return (torch.hypot((x - cx) / rx, (y - cy) / ry) - 1) * min(rx, ry)


def box(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float, corner: float = 0.0) -> Tensor:
    """A rectangle of half sides rx, ry, with corners rounded by `corner`."""
    dx, dy = (x - cx).abs() - rx + corner, (y - cy).abs() - ry + corner
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0) - corner


def capsule(x: Tensor, y: Tensor, x1: float, y1: float, x2: float, y2: float, radius: float) -> Tensor:
    """A line from (x1, y1) to (x2, y2) with round ends."""
    dx, dy = x2 - x1, y2 - y1
    along = (((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return torch.hypot(x - x1 - along * dx, y - y1 - along * dy) - radius


def polygon(x: Tensor, y: Tensor, *corners: Point) -> Tensor:
    """A convex polygon, corners clockwise on the screen."""
    sides = []
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        nx, ny = y2 - y1, x1 - x2
        sides.append(((x - x1) * nx + (y - y1) * ny) / math.hypot(nx, ny))
    return torch.stack(torch.broadcast_tensors(*sides)).amax(0)


def star(x: Tensor, y: Tensor, cx: float, cy: float, radius: float, inner: float = 0.42) -> Tensor:
    """Five points, one of them up; `inner`: the waist, in parts of the radius."""
    x, y = x - cx, y - cy
    turn = 2 * math.pi / 5
    angle = (torch.atan2(x, -y) + turn / 2) % turn - turn / 2
    reach = torch.hypot(x, y)
    waist_x, waist_y = radius * inner * math.sin(turn / 2), radius * inner * math.cos(turn / 2)
    nx, ny = radius - waist_y, waist_x
    return (reach * angle.abs().sin() * nx + (reach * angle.cos() - radius) * ny) / math.hypot(nx, ny)


def crescent(x: Tensor, y: Tensor, cx: float, cy: float, radius: float) -> Tensor:
    bite = circle(x, y, cx + 0.5 * radius, cy - 0.15 * radius, 0.85 * radius)
    return torch.maximum(circle(x, y, cx, cy, radius), -bite)


def heart(x: Tensor, y: Tensor, cx: float, cy: float, radius: float) -> Tensor:
    """Two lobes on a wedge."""
    x, y = (x - cx).abs() / radius, 0.45 - (y - cy - 0.1 * radius) / radius
    lobe = torch.hypot(x - 0.5, y - 0.62) - 0.55
    wedge = torch.maximum(x * 0.72 - (y + 0.55) * 0.69, y - 0.62)
    return torch.minimum(lobe, wedge) * radius
