"""The Model Context Protocol: other programs' tools here, and our tools in other programs."""
