#include "guest/swap/nbd_library.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/library_symbols.h"

namespace quire {
namespace {

constexpr char kFile[] = "libnbd.so.0";
constexpr char kAdvice[] = "Install it to swap to an NBD server; in Debian: apt-get install libnbd0 (1.14 or newer).";

const char* Fill(void* library, NbdLibrary& nbd) {
  LibrarySymbols symbols(library);
  symbols.Get("nbd_create", nbd.create);
  symbols.Get("nbd_close", nbd.close);
  symbols.Get("nbd_get_error", nbd.get_error);
  symbols.Get("nbd_get_errno", nbd.get_errno);
  symbols.Get("nbd_set_request_structured_replies", nbd.set_request_structured_replies);
  symbols.Get("nbd_set_pread_initialize", nbd.set_pread_initialize);
  symbols.Get("nbd_set_uri_allow_local_file", nbd.set_uri_allow_local_file);
  symbols.Get("nbd_is_read_only", nbd.is_read_only);
  symbols.Get("nbd_can_trim", nbd.can_trim);
  symbols.Get("nbd_can_multi_conn", nbd.can_multi_conn);
  symbols.Get("nbd_get_size", nbd.get_size);
  symbols.Get("nbd_get_block_size", nbd.get_block_size);
  symbols.Get("nbd_aio_connect_uri", nbd.aio_connect_uri);
  symbols.Get("nbd_aio_pread", nbd.aio_pread);
  symbols.Get("nbd_aio_pwrite", nbd.aio_pwrite);
  symbols.Get("nbd_aio_trim", nbd.aio_trim);
  symbols.Get("nbd_aio_get_fd", nbd.aio_get_fd);
  symbols.Get("nbd_aio_get_direction", nbd.aio_get_direction);
  symbols.Get("nbd_aio_notify_read", nbd.aio_notify_read);
  symbols.Get("nbd_aio_notify_write", nbd.aio_notify_write);
  symbols.Get("nbd_aio_is_ready", nbd.aio_is_ready);
  symbols.Get("nbd_aio_is_dead", nbd.aio_is_dead);
  symbols.Get("nbd_aio_is_closed", nbd.aio_is_closed);
  return symbols.missing();
}

absl::StatusOr<const NbdLibrary*> Load() {
  // Never closed: libraries that it brings along keep state of each thread.
  void* const library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("cannot load libnbd (", dlerror(), "). ", kAdvice));
  }
  static NbdLibrary nbd = {};
  if (const char* missing = Fill(library, nbd); missing != nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("this machine's ", kFile, " has no ", missing, ". ", kAdvice));
  }
  return &nbd;
}

}  // namespace

absl::StatusOr<const NbdLibrary*> LoadNbdLibrary() {
  static const absl::StatusOr<const NbdLibrary*>& library = *new absl::StatusOr<const NbdLibrary*>(Load());
  return library;
}

}  // namespace quire
