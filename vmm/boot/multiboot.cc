#include "vmm/boot/multiboot.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "vmm/boot/elf_kernel.h"
#include "vmm/boot/kernel_segment.h"
#include "vmm/boot/pc_layout.h"

namespace quire {
namespace {

constexpr uint64_t kSearched = 8192;  // the header is within the first 8192 bytes, aligned to 4

struct Header {
  uint32_t magic;
  uint32_t flags;
  uint32_t checksum;
};

// Follows the header when kHasAddresses is set.
struct Addresses {
  uint32_t header;
  uint32_t load;
  uint32_t load_end;  // 0: all of the file
  uint32_t bss_end;   // 0: no bss
  uint32_t entry;
};

// Flags below bit 16 ask for something, and a loader that cannot do it must refuse.
constexpr uint32_t kAlignModules = 1 << 0;
constexpr uint32_t kMemoryInformation = 1 << 1;
constexpr uint32_t kMustHonour = 0xffff;
constexpr uint32_t kHasAddresses = 1 << 16;

absl::Status LoadByAddresses(const FileView& file, uint64_t header_at, KernelImage& image) {
  const std::optional<Addresses> addresses = file.ReadAt<Addresses>(header_at + sizeof(Header));
  if (!addresses) return file.Error("truncated: the file ends within its Multiboot header");
  const auto [header, load, load_end, bss_end, entry] = *addresses;
  if (load > header || header - load > header_at) {
    return file.Error("malformed: its Multiboot header at ", absl::StrFormat("0x%x", header), " and loading to ",
                      absl::StrFormat("0x%x", load), " do not go together with its offset ", header_at);
  }
  const uint64_t offset = header_at - (header - load);
  const uint64_t end = load_end == 0 ? load + (file.size() - offset) : load_end;
  if (end < load || !file.Holds(offset, end - load)) {
    return file.Error("truncated: its Multiboot header says that it is loaded from ", absl::StrFormat("0x%x", load),
                      " to ", absl::StrFormat("0x%x", end), ", more than there is of the file");
  }
  if (bss_end != 0 && bss_end < end) return file.Error("malformed: its bss ends before it begins");
  image.segments = {{.address = Gpa(load),
                     .size = ByteCount::Bytes(std::max<uint64_t>(end, bss_end) - load),
                     .content = file.Part(offset, end - load)}};
  image.entry = Gpa(entry);
  return CheckSegments(file, image.segments);
}

absl::Status LoadElf(const FileView& file, KernelImage& image) {
  if (!LooksLikeElf(file)) {
    return file.Error(
        "has a Multiboot header without addresses, and is no ELF file: there is no saying what goes where");
  }
  absl::StatusOr<ElfKernel> kernel = ParseElfKernel(file);
  if (!kernel.ok()) return kernel.status();
  image.segments = std::move(kernel->segments);
  image.entry = kernel->entry;
  return absl::OkStatus();
}

}  // namespace

std::optional<uint64_t> FindMultibootHeader(const FileView& file) {
  for (uint64_t at = 0; at + sizeof(Header) <= std::min(file.size(), kSearched); at += 4) {
    const Header header = *file.ReadAt<Header>(at);
    if (header.magic != kMultibootHeaderMagic) continue;
    if (header.magic + header.flags + header.checksum == 0) return at;
  }
  return std::nullopt;
}

absl::StatusOr<KernelImage> ParseMultiboot(const FileView& file, uint64_t header_at) {
  const uint32_t flags = file.ReadAt<Header>(header_at)->flags;
  if (const uint32_t unknown = flags & kMustHonour & ~(kAlignModules | kMemoryInformation); unknown != 0) {
    return file.Error("a Multiboot kernel that asks for what this machine has not (flags ",
                      absl::StrFormat("0x%x", unknown), "; 4 is a video mode)");
  }
  KernelImage image;
  image.format = KernelFormat::kMultiboot;
  image.name = std::string(file.name());
  image.initrd_limit = kLowMemoryLimit;
  image.command_line_limit = kBootCommandLineRoom;
  const absl::Status status =
      (flags & kHasAddresses) != 0 ? LoadByAddresses(file, header_at, image) : LoadElf(file, image);
  if (!status.ok()) return status;
  if (!HasContentAt(image.segments, image.entry)) {
    return file.Error("malformed: the entry point ", absl::StrFormat("0x%x", image.entry.value()),
                      " lies in no segment");
  }
  return image;
}

}  // namespace quire
