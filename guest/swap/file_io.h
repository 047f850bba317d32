// How requests reach the kernel: through io_uring, several at once by one system call, or one after the other by preadv
// and pwritev, which work everywhere.
#ifndef QUIRE_GUEST_SWAP_FILE_IO_H_
#define QUIRE_GUEST_SWAP_FILE_IO_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "guest/swap/file_request.h"

namespace quire {

// Thread safe: several threads have requests under way at once.
class FileIo {
 public:
  virtual ~FileIo() = default;
  // Carries the requests out and returns when none of them is under way any more. Once one has failed, those not yet
  // begun are left; failed() of each request says which did.
  virtual void Run(FileDirection direction, absl::Span<FileRequest> requests) = 0;
};

// Both work on `fd`, which stays the caller's and outlives them.
std::unique_ptr<FileIo> MakePreadIo(int fd);
// Errors: what io_uring_setup reports; FailedPrecondition where it is forbidden or unknown. Takes some 100 KiB.
absl::StatusOr<std::unique_ptr<FileIo>> MakeUringIo(int fd);

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_FILE_IO_H_
