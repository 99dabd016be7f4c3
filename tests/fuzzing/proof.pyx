# What a sanitized build has to end on: compiled as the protocol's modules are, beside them.


def overflow(Py_ssize_t number):
    """A sum of signed numbers that is too large."""
    return number + 1


def shift(int number):
    """A bit shifted out of a signed number."""
    return number << 24


def beyond(const unsigned char* data, Py_ssize_t place):
    """A byte behind the last one."""
    return data[place]
