// libnbd, loaded when it is first needed: the program is linked statically, and libnbd brings half a dozen libraries
// along that only those who swap to an NBD server need.
#ifndef QUIRE_GUEST_SWAP_NBD_LIBRARY_H_
#define QUIRE_GUEST_SWAP_NBD_LIBRARY_H_

#include <libnbd.h>

#include "absl/status/statusor.h"

namespace quire {

// The functions of libnbd.so.0 that are used, each as <libnbd.h> declares it and libnbd(3) documents it.
struct NbdLibrary {
  struct nbd_handle* (*create)(void);
  decltype(&nbd_close) close;
  decltype(&nbd_get_error) get_error;
  decltype(&nbd_get_errno) get_errno;
  decltype(&nbd_set_request_structured_replies) set_request_structured_replies;
  decltype(&nbd_set_pread_initialize) set_pread_initialize;
  decltype(&nbd_set_uri_allow_local_file) set_uri_allow_local_file;
  decltype(&nbd_is_read_only) is_read_only;
  decltype(&nbd_can_trim) can_trim;
  decltype(&nbd_can_multi_conn) can_multi_conn;
  decltype(&nbd_get_size) get_size;
  decltype(&nbd_get_block_size) get_block_size;
  decltype(&nbd_aio_connect_uri) aio_connect_uri;
  decltype(&nbd_aio_pread) aio_pread;
  decltype(&nbd_aio_pwrite) aio_pwrite;
  decltype(&nbd_aio_trim) aio_trim;
  decltype(&nbd_aio_get_fd) aio_get_fd;
  decltype(&nbd_aio_get_direction) aio_get_direction;
  decltype(&nbd_aio_notify_read) aio_notify_read;
  decltype(&nbd_aio_notify_write) aio_notify_write;
  decltype(&nbd_aio_is_ready) aio_is_ready;
  decltype(&nbd_aio_is_dead) aio_is_dead;
  decltype(&nbd_aio_is_closed) aio_is_closed;
};

// Loads it the first time and keeps it for the life of the program. Thread safe.
// Errors: FailedPrecondition  it is not installed, or lacks a function; says what to install
absl::StatusOr<const NbdLibrary*> LoadNbdLibrary();

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_NBD_LIBRARY_H_
