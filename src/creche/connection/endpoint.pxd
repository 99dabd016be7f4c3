from creche.connection.link cimport Link


cdef class Endpoint:
    cdef public Link _link
