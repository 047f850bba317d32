// A userfaultfd for one window: creation with clear errors, and the calls that a window makes.
#ifndef QUIRE_MMU_USERFAULTFD_H_
#define QUIRE_MMU_USERFAULTFD_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace quire {

struct HvaRange {
  Hva begin;
  ByteCount size;
};

class Userfaultfd {
 public:
  // One that also reports faults of the kernel itself, as KVM's are, with MISSING and MINOR faults on shared memory.
  // FailedPrecondition: the host lacks something, and what.
  static absl::StatusOr<Userfaultfd> Create();

  int fd() const { return fd_.get(); }  // readable when a fault waits; never blocks
  // Whether pages of a file can be protected against writes so that the writes are reported (Linux 5.19 or newer).
  bool can_write_protect() const { return can_write_protect_; }

  // Whether ContinueProtected works (Linux 6.4 or newer).
  bool can_continue_protected() const { return can_continue_protected_; }

  // What is reported of a range. Touching a hole of the file (MISSING) and touching a page that is there but not mapped
  // (MINOR) always are; writing to a page that WriteProtect protects, if so wanted.
  enum class Reports : uint8_t { kTouches, kTouchesAndWrites };
  absl::Status Register(HvaRange range, Reports reports = Reports::kTouches);

  struct Fault {
    Hva address;  // of the page
    bool write;   // to a page that is not mapped, or that is protected against writes
  };
  // Appends the faults that wait, a few at most. False when there are none.
  bool Read(std::vector<Fault>& faults);

  // Maps the file's pages in the range and wakes whoever waits for one. Pages that are mapped already stay.
  // Unavailable: the address space is changing, try again. Internal: anything else, which is a bug of the caller.
  absl::Status Continue(HvaRange range);
  // The same, and wakes nobody.
  absl::Status ContinueAsleep(HvaRange range);
  // The same, and protects them against writes in the same step.
  absl::Status ContinueProtected(HvaRange range);
  // Protects the range's pages, which are mapped, against writes. Errors: those of the system call.
  absl::Status WriteProtect(HvaRange range);
  void Wake(HvaRange range);

 private:
  Userfaultfd(UniqueFd fd, bool can_write_protect, bool can_continue_protected)
      : fd_(std::move(fd)), can_write_protect_(can_write_protect), can_continue_protected_(can_continue_protected) {}

  // `mode`: UFFDIO_CONTINUE's. Returns whether it found a page that was mapped already.
  absl::StatusOr<bool> Map(HvaRange range, uint64_t mode);

  UniqueFd fd_;
  bool can_write_protect_;
  bool can_continue_protected_;
};

}  // namespace quire

#endif  // QUIRE_MMU_USERFAULTFD_H_
