// Reads a guest program: a statically linked ELF64 executable, as workloads/guest_abi.h asks for.
//
// The file is anybody's and may be hostile, so everything in it is a claim to be checked against the file's length and
// the ABI's address range before it is used. Only two tables matter, the file header and the program headers, both of
// fixed-size records; copying them out of a bounds-checked span is shorter and safer than driving libelf, which maps
// far more of the format than is wanted here and would be one more library to link in.
//
// Source: System V ABI, "Object Files" and "Program Loading"; <elf.h>.
#ifndef QUIRE_VMM_KVM_ELF_LOADER_H_
#define QUIRE_VMM_KVM_ELF_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "vmm/kvm/guest_page_tables.h"

namespace quire {

// A run of the program's memory: `size` bytes at `address`, first those of `content`, then zeros.
struct ElfSegment {
  Gva address;
  ByteCount size;
  absl::Span<const std::byte> content;  // at most `size`; points into the file
  bool writable = false;
  bool executable = false;

  uint64_t end() const { return address.value() + size.in_bytes(); }
};

// A program fit to be loaded: segments in ascending order, none empty, none overlapping, all between QUIRE_IMAGE_BEGIN
// and QUIRE_IMAGE_END; the entry point lies in an executable one. Valid for as long as the file's bytes are.
struct ElfImage {
  Gva entry;
  std::vector<ElfSegment> segments;

  // Whole pages that the segments touch; pages between them are not counted.
  PageCount pages() const;
};

// Checks the program in `file`. `name` is what errors call it; `limit` is the most memory the program may take,
// normally the size of the guest's memory. Pure: no state, thread safe.
// Errors: InvalidArgument, one sentence that says what is wrong with the file and what would be right.
absl::StatusOr<ElfImage> ParseElf(absl::string_view name, absl::Span<const std::byte> file, ByteCount limit);

}  // namespace quire

#endif  // QUIRE_VMM_KVM_ELF_LOADER_H_
