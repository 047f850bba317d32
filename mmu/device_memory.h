// A guest's physical memory as a device reads and writes it.
//
// Every address comes from the guest and may be anything: a range that is not memory is an error that the device
// reports, never an access. Nothing here hands out a pointer that could outlive what it points to: small things are
// copied, and a buffer for a transfer is wired for as long as the transfer takes.
#ifndef QUIRE_MMU_DEVICE_MEMORY_H_
#define QUIRE_MMU_DEVICE_MEMORY_H_

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"

namespace quire {

// Thread safe. Calls may wait for a page to come in, so they are made on no thread that serves faults, with no lock
// held that such a thread may want.
// Errors of all of them: OutOfRange, a part of the range is not the guest's memory; otherwise why its memory cannot be
// had any more: the guest has been stopped, or a limit.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // Copies bytes out of, or into, the guest's memory. Aligned 2, 4 and 8 byte words are copied as such, so that the
  // guest sees none half written; Read has acquire and Write release semantics.
  virtual absl::Status Read(Gpa from, absl::Span<std::byte> to) = 0;
  virtual absl::Status Write(Gpa to, absl::Span<const std::byte> from) = 0;

  // Memory that stays where it is for as long as this lives, in pieces, in order.
  class Buffer {
   public:
    virtual ~Buffer() = default;
    virtual absl::Span<const absl::Span<std::byte>> pieces() const = 0;
  };
  // For a transfer that the host does by itself (a file's bytes, say). Not to be kept longer than that takes: what is
  // wired is missing to all other guests, and there is a limit.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Wire(Gpa begin, ByteCount size) = 0;

  // The guest has no use for these pages' content: they read as zero from now on, and their memory is free, but for
  // those that are wired.
  virtual absl::Status Discard(Gpa begin, PageCount size) = 0;
};

}  // namespace quire

#endif  // QUIRE_MMU_DEVICE_MEMORY_H_
