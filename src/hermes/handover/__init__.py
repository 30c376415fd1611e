"""A restart that nobody notices: another process of the same command goes on, this one ends what it has begun.

1. The old one starts the new one, which gets the listening sockets, the lock on what is stored, and a channel: a socket
   pair that nobody else has an end of. It gets ready, beside the old one, all that it is to listen on included, and
   says so.
2. The old one stops accepting and passes on, in one turn of the loop, what runs and waits and what everybody may still
   use. From then on there is one scheduler, the new one's: what the old one has is tickets in it (`Elsewhere`).
3. The new one takes that over, says so, and accepts once the old one has heard it. What still comes to the old one, on
   connections that it has, is passed on (`relay`), and each answer is its connection's last.
4. The old one is gone when its last connection is.

Whoever may die when: before 3 is told, the old one goes on as if nothing had been (`undo`), since the kernel tells it
by the channel's end. To a new one that is only late it says so (`Off`), and that ends. Without this word the old one
is gone, and the new one begins without what it was not told. After 3 the new one's end is that of any server,
and the old one's frees what it ran.
"""

# Tells the new process of its end of the channel, and what there is to be said of its configuration.
VARIABLE = "HERMES_HANDOVER"
