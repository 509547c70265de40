"""A line of text on a node."""

from .pages import current_page, current_server, send
from .queue import current_origin

EVENT = "scfg.message"


def tell(node_id: str, text: str) -> None:
    """Show a line on the node `node_id`, which runs now.

    A page with the pack's extension shows it. Others show it by the host's own means, which breaks lines inside
    words and, in newer front ends, removes them when the prompt ends.
    """
    server, page = current_server(), current_page()
    if page is not None:
        origin = current_origin(node_id)
        send(EVENT, {"node": node_id, "graph": origin and origin.prompt.graph, "text": text}, page)
    elif server is not None and server.client_id is not None:
        server.send_progress_text(text, node_id, server.client_id)
