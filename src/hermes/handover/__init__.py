"""A restart that nobody notices: another process of the same command goes on, this one ends what it has begun.

1. The old one starts the new one, which gets the listening sockets, the lock on what is stored, and a channel: a socket
   pair that nobody else has an end of. It gets ready, beside the old one, all that it is to listen on included, and
   says so.
2. The old one tells what runs and waits and what everybody may still use, and stands still until the new one has taken
   that over (a few ms) or `TAKE_S` is over. Nothing happens meanwhile, so there is nothing to be undone: only then it
   lets go of its sockets, and there is one scheduler, the new one's, in which what it has is tickets (`Elsewhere`).
3. The new one accepts once it has heard that. What still comes to the old one, on connections that it has, is passed on
   (`relay`), and each answer is its connection's last.
4. The old one is gone when its last connection is.

Whoever may die when: until 3 the old one goes on as if nothing had been where the new one dies, or is late; then it
kills it, before that can take the channel's end for the old one's. For that end means that the old one is gone, and the
new one begins without what it was not told. After 3 the new one's end is that of any server, and the old one's frees
what it ran.
"""

# Tells the new process of its end of the channel, and what there is to be said of its configuration.
VARIABLE = "HERMES_HANDOVER"
