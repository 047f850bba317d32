// Reads a kernel, of any of the formats in which a PC's kernels come:
//
//   bzImage     what Linux installs as vmlinuz: unpacks itself; entered by the 64-bit boot protocol
//               (Linux's Documentation/arch/x86/boot.rst, protocol 2.12 or later)
//   PVH         an ELF file with a note of type XEN_ELFNOTE_PHYS32_ENTRY, such as Linux's vmlinux
//               (Xen's docs/misc/pvh.pandoc and xen/include/public/elfnote.h)
//   Multiboot   an ELF or other file with a Multiboot header (Multiboot Specification 0.6.96), such as small test
//   kernels
//
// The file is anybody's and may be hostile: what is accepted keeps the promises below, everything else is an error.
#ifndef QUIRE_VMM_BOOT_KERNEL_IMAGE_H_
#define QUIRE_VMM_BOOT_KERNEL_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "vmm/boot/kernel_segment.h"

namespace quire {

enum class KernelFormat { kBzImage, kPvhElf, kMultiboot };

// "bzImage", "PVH ELF file", "Multiboot kernel".
absl::string_view KernelFormatName(KernelFormat format);

// Valid for as long as the file's bytes are.
struct KernelImage {
  KernelFormat format = KernelFormat::kBzImage;
  std::string name;                     // what errors call it
  std::vector<KernelSegment> segments;  // at least one; as CheckSegments leaves them
  Gpa entry;                            // physical, within a segment
  // Room that the kernel wants after the end of its segments' content is part of the segments' sizes.
  Gpa initrd_limit;              // the end of an initrd is not above this
  ByteCount command_line_limit;  // longest command line that is not cut off, without its final zero
  // bzImage only: boot_params' hdr as the file has it, and the version of the protocol, such as 0x020c.
  absl::Span<const std::byte> setup_header;
  uint16_t protocol = 0;

  // Where the last segment ends.
  Gpa end() const { return segments.back().end(); }
};

// Reads the kernel in `file`, which errors call `name`. Pure: no state, thread safe.
// Errors: InvalidArgument, one sentence that says what is wrong with the file and, where it helps, what would be right.
absl::StatusOr<KernelImage> ParseKernel(absl::string_view name, absl::Span<const std::byte> file);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_KERNEL_IMAGE_H_
