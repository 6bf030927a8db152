"""Numbers of linux/netfilter/nf_tables.h and nfnetlink.h that our messages are made of, by what they belong to."""

from enum import IntEnum

SUBSYSTEM = 10 << 8
"""nf_tables' share of the message kinds of NETLINK_NETFILTER."""
BATCH_BEGIN, BATCH_END = 16, 17
BATCH_GENERATION = 1
"""Attribute of BATCH_BEGIN: refuse the batch unless this is the generation."""
GENERATION_ID = 1


class Message(IntEnum):
    """Kinds of messages (NFT_MSG_*), with the subsystem in them."""

    NEW_TABLE = SUBSYSTEM
    GET_TABLE = SUBSYSTEM | 1
    DELETE_TABLE = SUBSYSTEM | 2
    NEW_CHAIN = SUBSYSTEM | 3
    GET_CHAIN = SUBSYSTEM | 4
    DELETE_CHAIN = SUBSYSTEM | 5
    NEW_RULE = SUBSYSTEM | 6
    GET_RULE = SUBSYSTEM | 7
    DELETE_RULE = SUBSYSTEM | 8
    NEW_SET = SUBSYSTEM | 9
    GET_SET = SUBSYSTEM | 10
    DELETE_SET = SUBSYSTEM | 11
    NEW_ELEMENTS = SUBSYSTEM | 12
    GET_ELEMENTS = SUBSYSTEM | 13
    DELETE_ELEMENTS = SUBSYSTEM | 14
    GET_GENERATION = SUBSYSTEM | 16


class Table(IntEnum):
    """Attributes of a table."""

    NAME = 1
    FLAGS = 2
    HANDLE = 4
    USERDATA = 6


TABLE_DORMANT = 1
"""The flag of a table that packets do not pass."""


class Chain(IntEnum):
    """Attributes of a chain; `HOOK_*` are those within the hook."""

    TABLE = 1
    NAME = 3
    HOOK = 4
    POLICY = 5
    KIND = 7
    FLAGS = 10
    USERDATA = 12
    HOOK_NUMBER = 1
    HOOK_PRIORITY = 2


class ChainFlag(IntEnum):
    """Flags of a chain."""

    BINDING = 0x4


class Rule(IntEnum):
    """Attributes of a rule."""

    TABLE = 1
    CHAIN = 2
    HANDLE = 3
    EXPRESSIONS = 4
    USERDATA = 7


class Set(IntEnum):
    """Attributes of a set; `DESCRIPTION_*` are those within the description."""

    TABLE = 1
    NAME = 2
    FLAGS = 3
    KEY_TYPE = 4
    KEY_LENGTH = 5
    DATA_TYPE = 6
    DATA_LENGTH = 7
    DESCRIPTION = 9
    ID = 10
    TIMEOUT = 11
    USERDATA = 13
    EXPRESSION = 17
    EXPRESSIONS = 18
    DESCRIPTION_SIZE = 1
    DESCRIPTION_CONCATENATION = 2
    FIELD_LENGTH = 1


class SetFlag(IntEnum):
    """Flags of a set."""

    ANONYMOUS = 0x1
    CONSTANT = 0x2
    INTERVAL = 0x4
    MAP = 0x8
    TIMEOUT = 0x10
    DYNAMIC = 0x20
    OBJECT = 0x40
    CONCATENATION = 0x80
    EXPRESSIONS = 0x100


class ElementList(IntEnum):
    """Attributes of a message about elements."""

    TABLE = 1
    SET = 2
    ELEMENTS = 3


class Element(IntEnum):
    """Attributes of an element."""

    KEY = 1
    DATA = 2
    FLAGS = 3
    TIMEOUT = 4
    EXPIRATION = 5
    USERDATA = 6
    KEY_END = 10


LIST_ELEMENT = 1
"""What a list is made of."""
EXPRESSION_NAME, EXPRESSION_DATA = 1, 2
DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
VERDICT_TYPE, VERDICT_LENGTH = 0xFFFFFF00, 16
"""Type and length of a map's data that is a verdict."""
POLICY_DROP, POLICY_ACCEPT = 0, 1
