"""A line of text on a node."""

from .pages import current_server, is_page, send
from .queue import current_origin

EVENT = "scfg.message"
NOTHING = " "
"""What takes a line back that the host shows by its own means: it ignores an empty text."""


def tell(node_id: str, text: str, client: str | None = None) -> None:
    """Show a line on the node `node_id`, which runs or is validated now; "" takes the last one back.

    A page with the pack's extension shows it. Others show it by the host's own means, which breaks lines inside
    words and, in newer front ends, removes them when the prompt ends.

    client  who queued the prompt, where the host does not know it yet.
    """
    server = current_server()
    client = client or getattr(server, "client_id", None)
    if server is None or client is None:
        return
    if is_page(client):
        origin = current_origin(node_id)
        send(EVENT, {"node": node_id, "graph": origin and origin.prompt.graph, "text": text}, client)
    else:
        server.send_progress_text(text or NOTHING, node_id, client)
