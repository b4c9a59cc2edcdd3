"""How cells of the dataset table look and are edited."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QPainter, QPen
from PySide6.QtWidgets import (
    QComboBox,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import SPLITS
from so8t_studio.models.sample_cells import is_right_to_left
from so8t_studio.models.sample_table import SAMPLE_ROLE
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

Index = QModelIndex | QPersistentModelIndex
ROW_HEIGHT = 52


class LabelDelegate(QStyledItemDelegate):
    """A label as a pill: sign, word and colour."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Draw the pill over the cell's own background."""
        self.initStyleOption(option, index)
        text = option.text
        option.text = ""
        style = option.widget.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        if text not in Label.__members__:
            return
        theme, label = Theme.instance(), Label(text)
        ink = theme.color(TOKENS[label])
        fill = theme.color(f"{TOKENS[label]}_soft")
        height = min(24, option.rect.height() - 6)
        words = f"{SIGNS[label]}  {text}"
        font = option.font
        font.setBold(True)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(font)
        width = min(painter.fontMetrics().horizontalAdvance(words) + 20, option.rect.width() - 8)
        top = option.rect.center().y() - height // 2 + 1
        pill = QRect(option.rect.left() + 4, top, width, height)
        painter.setBrush(fill)
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        painter.setPen(QPen(ink, 1) if selected else Qt.PenStyle.NoPen)
        painter.drawRoundedRect(pill, height / 2, height / 2)
        painter.setPen(ink)
        painter.drawText(pill, int(Qt.AlignmentFlag.AlignCenter), words)
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        """Return room for the longest label."""
        return QSize(128, ROW_HEIGHT)

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        """Return a list of the three labels."""
        editor = QComboBox(parent)
        editor.setObjectName("labelEditor")
        editor.setAccessibleName(self.tr("Label"))
        for label in LABELS:
            editor.addItem(f"{SIGNS[label]}  {label.value}", label.value)
        return editor

    def setEditorData(self, editor: QWidget, index: Index) -> None:
        """Show the row's label."""
        if isinstance(editor, QComboBox):
            value = index.data(Qt.ItemDataRole.EditRole)
            editor.setCurrentIndex(max(editor.findData(value), 0))

    def setModelData(self, editor: QWidget, model: object, index: Index) -> None:
        """Give the row the label that was chosen."""
        if isinstance(editor, QComboBox):
            index.model().setData(index, editor.currentData())  # type: ignore[union-attr]


class SplitDelegate(LabelDelegate):
    """The split, edited by a list."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Draw plain text."""
        QStyledItemDelegate.paint(self, painter, option, index)

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        """Return a list of the splits."""
        editor = QComboBox(parent)
        editor.setObjectName("splitEditor")
        editor.setAccessibleName(self.tr("Split"))
        editor.addItem(self.tr("auto"), "")
        for split in SPLITS:
            editor.addItem(split, split)
        return editor


class TextDelegate(QStyledItemDelegate):
    """Wrapped text; right-to-left text starts on the right."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: Index) -> None:
        """Choose the direction by the text itself."""
        super().initStyleOption(option, index)
        if not option.text.isascii() and is_right_to_left(option.text):
            option.direction = Qt.LayoutDirection.RightToLeft
        sample = index.data(SAMPLE_ROLE)
        if sample is not None and not option.text:
            return
        option.features |= QStyleOptionViewItem.ViewItemFeature.WrapText
