"""Backends behind one seam: networks, their specs, and the runners that execute them."""
