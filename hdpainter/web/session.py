"""What the server knows of one browser tab, and what the tab shows of its orders."""

import html
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from hdpainter.web.engine import Engine, Order
from hdpainter.web.messages import told
from hdpainter.web.photos import Photo
from hdpainter.web.work import Draft, Finished

SESSIONS = 200  # tabs remembered; older ones have to load their photo again
KEPT = 24  # drafts in the gallery


@dataclass
class Session:
    """State of a tab.

    key: gradio's. client: the login or address that it belongs to. groups: the drafts of each order, the newest
    first. orders: those since the tab last had nothing to do. picked: the draft that the slider shows. finished:
    by the draft's file.
    """

    key: str
    client: str = ""
    photo: Photo | None = None
    loaded_mask: Path | None = None
    groups: list[list[Draft]] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    picked: Draft | None = None
    finished: dict[Path, Finished] = field(default_factory=dict)
    error: str = ""

    @property
    def drafts(self) -> list[Draft]:
        """In the order of the gallery."""
        return [draft for group in self.groups for draft in group][:KEPT]

    @property
    def active(self) -> list[Order]:
        return [order for order in self.orders if not order.finished]

    def clear(self) -> None:
        """Nothing of the last photo stays."""
        vars(self).update(vars(Session(self.key, self.client)))

    def add(self, order: Order) -> None:
        """An order was put into the queue."""
        self.error = ""
        self.orders = [*self.active, order]


class Sessions:
    """The sessions by gradio's key of the tab, which is only looked up, never part of a path.

    A tab is remembered once it has a photo. When there are too many, the oldest goes of the client who has the
    most: who invents keys loses tabs of their own.
    """

    def __init__(self, most: int = SESSIONS) -> None:
        self._most = most
        self._by_key: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: str, client: str) -> Session:
        """The session of a tab; a new one, not remembered, where there is none of this key and client."""
        with self._lock:
            session = self._by_key.get(key)
            if session is None or session.client != client:
                return Session(key, client)
            self._by_key.move_to_end(key)
            return session

    def remember(self, session: Session) -> None:
        """It has a photo. It takes the place of another of its key."""
        with self._lock:
            self._by_key[session.key] = session
            self._by_key.move_to_end(session.key)
            if len(self._by_key) > self._most:
                clients = Counter(each.client for each in self._by_key.values())
                busiest = max(clients.values())
                oldest = next(key for key, each in self._by_key.items() if clients[each.client] == busiest)
                del self._by_key[oldest]

    def all(self) -> list[Session]:
        """Those that are remembered."""
        with self._lock:
            return list(self._by_key.values())


def status(session: Session, engine: Engine) -> str:
    """The panel that says how far things are, as HTML."""
    lines = [_alert(session.error)] if session.error else []
    lines += [_alert(order.message) for order in session.orders if order.state == "failed"]
    active = session.active
    if active:
        first = next((order for order in active if order.state == "running"), active[0])
        lines.append(_progress(first, engine.ahead(first)))
        if len(active) > 1:
            lines.append(f"<p>{len(active) - 1} more of yours after it</p>")
    elif session.orders and session.orders[-1].state == "cancelled":
        lines.append("<p>Cancelled.</p>")
    elif session.orders and session.orders[-1].state == "done":
        last = session.orders[-1]
        lines.append(f"<p>{html.escape(last.title)}: done in {last.took:.1f} s{html.escape(last.remark)}</p>")
    elif not lines:
        hint = (
            "Paint over what to replace and press <b>Make drafts</b>." if session.photo else "Choose a photo."
        )
        lines.append(f"<p>{hint}</p>")
    live = "off" if active else "polite"  # nobody wants every step read out
    return f'<div class="hdp-status" role="status" aria-live="{live}">{"".join(lines)}</div>'


def _alert(message: str) -> str:
    message = told(message)
    return f'<p class="hdp-error" role="alert">{html.escape(message[:1].upper() + message[1:])}</p>'


def _progress(order: Order, ahead: int) -> str:
    if order.state == "waiting" and not ahead:
        return f"<p>{html.escape(order.title)}: starting</p>{_bar(None)}"
    if order.state == "waiting":
        come = "1 job comes" if ahead == 1 else f"{ahead} jobs come"
        return f"<p>{html.escape(order.title)}: in the queue, {come} first</p>{_bar(None)}"
    step, steps = order.steps
    left = order.seconds_left
    told = f"step {step} of {steps}" if step else ""
    if left is not None:
        told += f", about {duration(left)} left"
    label = html.escape(order.label[:1].upper() + order.label[1:])
    return f'<p><span class="hdp-steps">{told}</span>{label}</p>{_bar(order.fraction or None)}'


def _bar(fraction: float | None) -> str:
    """None: nobody knows how much is done."""
    if fraction is None:
        return '<div class="hdp-bar hdp-busy" role="progressbar" aria-label="Progress"><div></div></div>'
    percent = round(100 * fraction)
    return (
        f'<div class="hdp-bar" role="progressbar" aria-label="Progress" aria-valuenow="{percent}">'
        f'<div style="width: {percent}%"></div></div>'
    )


def duration(seconds: float) -> str:
    """For people: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
