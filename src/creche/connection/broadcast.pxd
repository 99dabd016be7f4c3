cimport cython

from creche.connection.endpoint cimport Endpoint
from creche.connection.link cimport Link
from creche.protocol.prepared cimport PreparedMessage


@cython.locals(ws=Endpoint, link=Link, committed=Py_ssize_t)
cdef list _post(websockets, PreparedMessage message, bint closing)
