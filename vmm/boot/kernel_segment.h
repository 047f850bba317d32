// The parts of memory that a kernel takes.
#ifndef QUIRE_VMM_BOOT_KERNEL_SEGMENT_H_
#define QUIRE_VMM_BOOT_KERNEL_SEGMENT_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/file_view.h"
#include "base/units.h"

namespace quire {

// `size` bytes at `address`, first those of `content`, then zeros.
struct KernelSegment {
  Gpa address;
  ByteCount size;
  absl::Span<const std::byte> content;  // at most `size`; points into the file

  Gpa end() const { return address + size; }
};

// Sorts the segments of `file`. Afterwards they are in ascending order, none empty, none overlapping, at least one, all
// between kKernelBegin and kLowMemoryLimit. Their sizes may be anything before.
// Errors: InvalidArgument, what is wrong with them.
absl::Status CheckSegments(const FileView& file, std::vector<KernelSegment>& segments);

// Whether one of the segments has content at `gpa`.
bool HasContentAt(absl::Span<const KernelSegment> segments, Gpa gpa);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_KERNEL_SEGMENT_H_
