cimport cython

from creche.endpoint cimport Endpoint
from creche.link cimport Link
from creche.protocol.prepared cimport PreparedMessage


@cython.locals(ws=Endpoint, link=Link, committed=Py_ssize_t)
cdef list _post(websockets, PreparedMessage message, bint closing)
