"""Why a rotation is the identity, in words."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication

from so8t_engine.rotations.analysis import BlockView


def _tr(text: str) -> str:
    return QCoreApplication.translate("IdentityNote", text)


def identity_note(view: BlockView, *, strength: float, step: int, reason: str) -> str:
    """Return why R_cmd (or everything) stands still in ``view``; empty if it does not.

    Args:
        view: the block.
        strength: the strength at which it is shown.
        step: the recorded step.
        reason: what :func:`~so8t_studio.pages.rotations.loading.identity_reason` found.
    """
    if strength == 0:
        return _tr("At strength 0 every rotation is the identity: this is the base model.")
    if not view.cmd_is_identity:
        return ""
    if step == 0:
        return _tr(
            "Step 0: nothing has been learned, so both rotations are the identity and the base "
            "model is untouched."
        )
    if reason == "no_weight":
        return _tr(
            "R_cmd is the identity: it learns from replies only, and this run trained without the "
            "task loss (loss.w_task is 0). Quick trial, Balanced and Thorough switch it on."
        )
    if reason == "no_texts":
        return _tr(
            "R_cmd is the identity: it learns from replies only, and no training sample has one. "
            "Add responses on the Dataset page and train again."
        )
    return _tr("R_cmd is the identity in this block: no task loss has moved it.")
