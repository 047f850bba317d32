// A userfaultfd for one window: creation with clear errors, and the four calls that a window makes.
#ifndef QUIRE_MMU_USERFAULTFD_H_
#define QUIRE_MMU_USERFAULTFD_H_

#include <cstddef>
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

  // From now on, touching a hole of the range (MISSING) or a page that is there but not mapped (MINOR) is reported.
  absl::Status Register(HvaRange range);

  struct Fault {
    Hva address;  // of the page
    bool write;
  };
  // Appends the faults that wait, a few at most. False when there are none.
  bool Read(std::vector<Fault>& faults);

  // Maps the file's pages in the range and wakes whoever waits for one. Pages that are mapped already stay.
  // Unavailable: the address space is changing, try again. Internal: anything else, which is a bug of the caller.
  absl::Status Continue(HvaRange range);
  void Wake(HvaRange range);

 private:
  explicit Userfaultfd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace quire

#endif  // QUIRE_MMU_USERFAULTFD_H_
