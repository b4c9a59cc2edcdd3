"""Colours, type and icons of the window, light and dark, from one set of tokens.

Fusion is the only style on which palette and style sheet agree on every platform. The offscreen
platform ignores ``setColorScheme``, so the palette is always set here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from PySide6.QtCore import QByteArray, QObject, QRectF, Qt, Signal, Slot
from PySide6.QtGui import QColor, QFont, QFontDatabase, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

from so8t_engine.resources import resource_root

Mode = Literal["light", "dark", "system"]

# Latin faces first where they look right, then faces that carry Japanese.
SANS_FAMILIES = (
    "Segoe UI",
    "Inter",
    "SF Pro Text",
    "Cantarell",
    "Noto Sans",
    "Yu Gothic UI",
    "Hiragino Sans",
    "Meiryo",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "DejaVu Sans",
)
MONO_FAMILIES = (
    "Cascadia Mono",
    "Consolas",
    "SF Mono",
    "DejaVu Sans Mono",
    "Noto Sans Mono",
    "Noto Sans Mono CJK JP",
)


@dataclass(frozen=True)
class Tokens:
    """Every colour that the window uses, as ``#rrggbb``.

    Text colours reach a contrast of 4.5:1 on ``background``, ``surface``, ``surface_raised`` and
    ``sunken``; ``on_*`` colours do so on the colour that they name.
    """

    background: str
    surface: str
    surface_raised: str
    sunken: str
    hover: str
    border: str
    border_strong: str
    text: str
    text_muted: str
    accent: str
    accent_hover: str
    on_accent: str
    accent_soft: str
    allow: str
    allow_soft: str
    escalate: str
    escalate_soft: str
    refuse: str
    refuse_soft: str
    info: str
    info_soft: str
    success: str
    success_soft: str
    warning: str
    warning_soft: str
    error: str
    error_soft: str
    diverging_low: str
    diverging_mid: str
    diverging_high: str
    series: tuple[str, ...]


LIGHT = Tokens(
    background="#f4f6f9",
    surface="#ffffff",
    surface_raised="#ffffff",
    sunken="#eef1f5",
    hover="#e8ecf3",
    border="#dbe1ea",
    border_strong="#8691a3",
    text="#18202e",
    text_muted="#546074",
    accent="#2b59c3",
    accent_hover="#2049a6",
    on_accent="#ffffff",
    accent_soft="#e4ebfb",
    allow="#12703f",
    allow_soft="#ddf2e6",
    escalate="#855000",
    escalate_soft="#fbecd0",
    refuse="#b02121",
    refuse_soft="#fbe3e1",
    info="#2352a8",
    info_soft="#e4ebfb",
    success="#12703f",
    success_soft="#ddf2e6",
    warning="#855000",
    warning_soft="#fbecd0",
    error="#b02121",
    error_soft="#fbe3e1",
    diverging_low="#2166ac",
    diverging_mid="#f7f7f7",
    diverging_high="#c2410c",
    series=(
        "#2b59c3", "#b4480f", "#12703f", "#8a3ab9", "#a01c4c", "#0b7285", "#7a5b00", "#546074",
    ),
)  # fmt: skip

DARK = Tokens(
    background="#13161c",
    surface="#1a1e26",
    surface_raised="#222732",
    sunken="#0f1217",
    hover="#272d39",
    border="#303746",
    border_strong="#6c778b",
    text="#e6e9ef",
    text_muted="#a5afc0",
    accent="#8fb0ff",
    accent_hover="#adc5ff",
    on_accent="#0e1420",
    accent_soft="#243250",
    allow="#62d196",
    allow_soft="#173527",
    escalate="#ecb75a",
    escalate_soft="#3a2d14",
    refuse="#ff938a",
    refuse_soft="#42201f",
    info="#8fb0ff",
    info_soft="#22304d",
    success="#62d196",
    success_soft="#173527",
    warning="#ecb75a",
    warning_soft="#3a2d14",
    error="#ff938a",
    error_soft="#42201f",
    diverging_low="#5aa2e6",
    diverging_mid="#20242c",
    diverging_high="#f08a4b",
    series=(
        "#8fb0ff", "#f2a065", "#62d196", "#cf9bf5", "#ff8fb3", "#5fd0e0", "#e5c558", "#a5afc0",
    ),
)  # fmt: skip


def luminance(color: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    channels = []
    for start in (1, 3, 5):
        value = int(color[start : start + 2], 16) / 255
        channels.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _available(families: tuple[str, ...]) -> list[str]:
    installed = set(QFontDatabase.families())
    found = [name for name in families if name in installed]
    return found or [QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont).family()]


class Theme(QObject):
    """The theme in force. ``changed`` carries the new :class:`Tokens`.

    Widgets that paint themselves read ``Theme.instance().tokens`` and listen to ``changed``.
    """

    changed = Signal(object)
    _instance: Theme | None = None

    def __init__(self, mode: Mode = "system", parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.mode: Mode = mode
        self.tokens = self._resolve(mode)
        self._icons: dict[tuple[str, str], QIcon] = {}
        Theme._instance = self
        hints = QApplication.styleHints()
        hints.colorSchemeChanged.connect(self._on_system_scheme_changed)

    @classmethod
    def instance(cls) -> Theme:
        """Return the theme of this process, made on first use."""
        if cls._instance is None:
            cls._instance = Theme()
        return cls._instance

    @property
    def is_dark(self) -> bool:
        """True while the dark tokens are in force."""
        return self.tokens is DARK

    def set_mode(self, mode: Mode) -> None:
        """Switch to ``light``, ``dark`` or what the system says."""
        self.mode = mode
        tokens = self._resolve(mode)
        if tokens is not self.tokens:
            self.tokens = tokens
            self.apply()

    def apply(self) -> None:
        """Put style, font, palette and style sheet into force and announce the tokens."""
        app = QApplication.instance()
        if not isinstance(app, QApplication):
            return
        if app.style().objectName().lower() != "fusion":
            app.setStyle("Fusion")
        app.setFont(self.font())
        app.setPalette(self._palette())
        app.setStyleSheet(self.style_sheet())
        self._icons.clear()
        self.changed.emit(self.tokens)

    @staticmethod
    def _resolve(mode: Mode) -> Tokens:
        if mode == "system":
            scheme = QApplication.styleHints().colorScheme()
            return DARK if scheme == Qt.ColorScheme.Dark else LIGHT
        return DARK if mode == "dark" else LIGHT

    @Slot()
    def _on_system_scheme_changed(self) -> None:
        if self.mode == "system":
            self.set_mode("system")

    def font(self, points: float = 10.0, *, bold: bool = False) -> QFont:
        """Return the interface font; it falls back to a face that carries Japanese."""
        font = QFont()
        font.setFamilies(_available(SANS_FAMILIES))
        font.setPointSizeF(points)
        font.setBold(bold)
        return font

    def mono_font(self, points: float = 9.5) -> QFont:
        """Return the fixed-width font for logs and numbers."""
        font = QFont()
        font.setFamilies(_available(MONO_FAMILIES))
        font.setStyleHint(QFont.StyleHint.Monospace)
        font.setPointSizeF(points)
        return font

    def color(self, token: str) -> QColor:
        """Return the token of that name as a QColor."""
        return QColor(getattr(self.tokens, token))

    def series_color(self, index: int) -> QColor:
        """Return the chart colour number ``index``; colours repeat after eight."""
        return QColor(self.tokens.series[index % len(self.tokens.series)])

    def icon(self, name: str, token: str = "text_muted") -> QIcon:
        """Return ``resources/icons/<name>.svg`` drawn in the colour of a token."""
        key = (name, token)
        if key not in self._icons:
            self._icons[key] = self._load_icon(name, getattr(self.tokens, token))
        return self._icons[key]

    @staticmethod
    def _load_icon(name: str, color: str) -> QIcon:
        path = resource_root() / "icons" / f"{name}.svg"
        if not path.is_file():
            return QIcon()
        text = path.read_text("utf-8").replace("currentColor", color)
        renderer = QSvgRenderer(QByteArray(text.encode()))
        icon = QIcon()
        for size in (16, 20, 24, 32, 48, 64):
            pixmap = QPixmap(size, size)
            pixmap.fill(Qt.GlobalColor.transparent)
            painter = QPainter(pixmap)
            renderer.render(painter, QRectF(0, 0, size, size))
            painter.end()
            icon.addPixmap(pixmap)
        return icon

    def style_sheet(self) -> str:
        """Return ``resources/style/studio.qss`` with every ``@token@`` replaced."""
        folder = resource_root() / "style"
        text = (folder / "studio.qss").read_text("utf-8")
        for item in fields(self.tokens):
            value = getattr(self.tokens, item.name)
            if isinstance(value, str):
                text = text.replace(f"@{item.name}@", value)
        images = folder / ("dark" if self.is_dark else "light")
        return text.replace("@images@", images.as_posix())

    def _palette(self) -> QPalette:
        role = QPalette.ColorRole
        palette = QPalette()
        colors = {
            role.Window: "background",
            role.WindowText: "text",
            role.Base: "surface",
            role.AlternateBase: "sunken",
            role.ToolTipBase: "surface_raised",
            role.ToolTipText: "text",
            role.PlaceholderText: "text_muted",
            role.Text: "text",
            role.Button: "surface",
            role.ButtonText: "text",
            role.BrightText: "error",
            role.Highlight: "accent",
            role.HighlightedText: "on_accent",
            role.Link: "accent",
            role.LinkVisited: "accent",
            role.Accent: "accent",
            role.Light: "surface_raised",
            role.Midlight: "border",
            role.Mid: "border_strong",
            role.Dark: "border_strong",
            role.Shadow: "sunken",
        }
        for target, token in colors.items():
            palette.setColor(target, self.color(token))
        muted = self.color("text_muted")
        muted.setAlpha(170)
        for target in (role.WindowText, role.Text, role.ButtonText):
            palette.setColor(QPalette.ColorGroup.Disabled, target, muted)
        return palette
