"""Load for a server: what `hermes bench` sends, how it measures what comes back, and how it tells of it.

The pure parts know neither sockets nor clocks: when to send (`arrivals`), what (`lengths`, `plan`, `asking`), what an
answer says (`reading`), what it comes to (`histogram`, `tally`, `figures`), and how that looks (`table`, `page`). `run`
sends.
"""
