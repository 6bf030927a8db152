"""Messages about nftables' tables, packed by hand. Pure.

A change of nf_tables is a batch: a message that opens it, the changes, and one that closes it, all in one
datagram; the kernel does all of it or nothing. Numbers are those of linux/netfilter/nf_tables.h and nfnetlink.h.
"""

from kubeproxy.kernel.netlink_messages import NLM_F_ACK, NLM_F_REQUEST, message, netfilter_head, text_attribute
from kubeproxy.model.addresses import Family

NFTABLES = 10
BATCH_BEGIN, BATCH_END = 16, 17
DELETE_TABLE = NFTABLES << 8 | 2
_TABLE_NAME = 1


def encode_delete_table(family: Family, name: str, sequence: int) -> bytes:
    """Encode the batch that deletes a table with all that is in it.

    All three messages have one sequence number: a kernel without nf_tables answers the first of them.
    """
    edge = netfilter_head(None, NFTABLES)
    body = netfilter_head(family) + text_attribute(_TABLE_NAME, name)
    return b"".join(
        (
            message(BATCH_BEGIN, NLM_F_REQUEST, sequence, edge),
            message(DELETE_TABLE, NLM_F_REQUEST | NLM_F_ACK, sequence, body),
            message(BATCH_END, NLM_F_REQUEST, sequence, edge),
        )
    )
