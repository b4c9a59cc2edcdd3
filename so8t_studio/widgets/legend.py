"""The legend of a chart: one small button a curve, which shows or hides it."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtGui import QColor, QIcon, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QToolButton, QWidget

from so8t_studio.widgets.flow_layout import FlowLayout


class Legend(QWidget):
    """Buttons that wrap onto more lines; ``toggled(key, on)`` when one is pressed."""

    toggled = Signal(str, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("legend")
        self._buttons: dict[str, QToolButton] = {}
        self._dashed: dict[str, bool] = {}
        self._flow = FlowLayout(self, gap=4)
        self.hide()

    def add(self, key: str, name: str, color: QColor, *, dashed: bool = False) -> None:
        """Add the entry of a curve."""
        button = QToolButton()
        button.setObjectName(f"legend_{key}")
        button.setText(name)
        button.setCheckable(True)
        button.setChecked(True)
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setIconSize(QSize(16, 10))
        button.setStyleSheet(
            "QToolButton { padding: 1px 6px; font-size: 8.5pt; border: 1px solid transparent;"
            " background: transparent; }"
        )
        button.setAccessibleName(self.tr("Show the curve {name}").format(name=name))
        button.setToolTip(self.tr("Show or hide {name}.").format(name=name))
        button.setProperty("series", key)
        button.toggled.connect(self._on_button_toggled)
        self._buttons[key] = button
        self._dashed[key] = dashed
        self._flow.addWidget(button)
        self.set_color(key, color)
        self.setVisible(len(self._buttons) > 1)

    def set_color(self, key: str, color: QColor) -> None:
        """Draw the sample line of a curve in ``color``."""
        pixmap = QPixmap(32, 20)
        pixmap.setDevicePixelRatio(2)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        pen = QPen(color, 2)
        if self._dashed[key]:
            pen.setStyle(Qt.PenStyle.DashLine)
        painter.setPen(pen)
        painter.drawLine(0, 5, 16, 5)
        painter.end()
        self._buttons[key].setIcon(QIcon(pixmap))

    def clear(self) -> None:
        """Remove all entries."""
        for button in self._buttons.values():
            self._flow.removeWidget(button)
            button.deleteLater()
        self._buttons.clear()
        self._dashed.clear()
        self.hide()

    @Slot(bool)
    def _on_button_toggled(self, on: bool) -> None:
        button = self.sender()
        if isinstance(button, QToolButton):
            font = button.font()
            font.setStrikeOut(not on)
            button.setFont(font)
            self.toggled.emit(str(button.property("series")), on)
