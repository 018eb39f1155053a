"""The rules that suggest drops, on phantoms."""

import cv2

from data_builder.review.folder import Folder
from data_builder.review.suggestions import StackSlice, features, suggest


def stack_of(folder, study):
    stack = []
    for key in folder.studies[study]:
        row = folder.rows[key]
        gray = cv2.imread(str(folder.image(key)), cv2.IMREAD_GRAYSCALE)
        stack.append(StackSlice(row["digest"], float(row["position_mm"]), features(gray)))
    return stack


def test_crown_and_repeats_are_suggested_and_the_brain_is_not(phantoms):
    folder = Folder(phantoms[1])
    for study in folder.studies:
        stack = stack_of(folder, study)
        reasons = suggest(stack)
        top = [index for index, reason in enumerate(reasons) if reason]
        assert 1 <= len(top) <= 4 and top == list(range(top[0], len(stack)))
        assert set(reasons[top[0] :]) <= {"above the brain", "empty"}
        twice = suggest([*stack[:10], stack[9], *stack[10:]])
        assert twice[10] == "repeated" and twice[:10] + twice[11:] == reasons


def test_a_stack_upside_down_or_without_positions(phantoms):
    folder = Folder(phantoms[1])
    stack = stack_of(folder, next(iter(folder.studies)))
    assert suggest(stack[::-1]) == suggest(stack)[::-1]
    unplaced = suggest([one._replace(position_mm=None) for one in stack])
    assert set(unplaced) <= {"", "empty"}


def test_a_study_without_a_brain_has_no_suggested_ends(folder):
    assert suggest(stack_of(folder, "stu-0000")) == [""] * 6
    assert suggest([]) == []
