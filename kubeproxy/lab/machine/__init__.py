"""User-Mode Linux machines: a kernel of its own as an ordinary process, whose root is the host's, copied on write.

`boot` starts one and holds it (`warden`), `guest` is its process 1, `client` runs commands inside. Host and guest
speak frames (`frames`) over a serial line, so that a machine can be commanded whatever becomes of its network.
"""
