cimport cython


@cython.final
cdef class Poller:
    cdef public object call_soon
    cdef object _epoll
    cdef dict _readers
    cdef dict _writers
    cdef list _ready

    @cython.locals(end=double, events=int)
    cdef _call_back(self)
    cdef _call(self, object callback)
    cdef _watch(self, dict callbacks, int descriptor, object callback)
