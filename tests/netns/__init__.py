"""Several computers on one: network namespaces, a real etcd, real nodes of btw, and a referee outside of both."""
