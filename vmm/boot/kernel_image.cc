#include "vmm/boot/kernel_image.h"

#include <optional>

#include "absl/status/status.h"
#include "base/file_view.h"
#include "vmm/boot/bz_image.h"
#include "vmm/boot/elf_kernel.h"
#include "vmm/boot/multiboot.h"

namespace quire {
namespace {

constexpr absl::string_view kWhatIsBooted =
    "a kernel is a bzImage (Linux's vmlinuz), an ELF file with a PVH note (vmlinux, built with CONFIG_PVH), or has a "
    "Multiboot header";

// Compressed kernels that are not bzImages are packages of them, which people have lying around.
absl::Status ErrorOfUnknown(const FileView& file) {
  if (file.size() == 0) return file.Error("empty");
  if (file.StartsWith("\x1f\x8b")) return file.Error("a gzip file: unpack it first (", kWhatIsBooted, ")");
  if (file.StartsWith("\x28\xb5\x2f\xfd")) return file.Error("a zstd file: unpack it first (", kWhatIsBooted, ")");
  if (file.StartsWith("\xfd"
                      "7zXZ"))
    return file.Error("an xz file: unpack it first (", kWhatIsBooted, ")");
  return file.Error("not a kernel: ", kWhatIsBooted);
}

absl::StatusOr<KernelImage> ParseElf(const FileView& file) {
  const absl::StatusOr<ElfKernel> kernel = ParseElfKernel(file);
  if (!kernel.ok()) return kernel.status();
  if (kernel->pvh_entry) return MakePvhImage(file, *kernel);
  return file.Error(
      "an ELF file without a PVH note or a Multiboot header: build Linux with CONFIG_PVH, or take its bzImage");
}

bool HasPvhNote(const FileView& file) {
  if (!LooksLikeElf(file)) return false;
  const absl::StatusOr<ElfKernel> kernel = ParseElfKernel(file);
  return kernel.ok() && kernel->pvh_entry.has_value();
}

}  // namespace

absl::string_view KernelFormatName(KernelFormat format) {
  switch (format) {
    case KernelFormat::kBzImage:
      return "bzImage";
    case KernelFormat::kPvhElf:
      return "PVH ELF file";
    case KernelFormat::kMultiboot:
      return "Multiboot kernel";
  }
  return "unknown";
}

absl::StatusOr<KernelImage> ParseKernel(absl::string_view name, absl::Span<const std::byte> bytes) {
  const FileView file(name, bytes);
  if (LooksLikeBzImage(file)) return ParseBzImage(file);
  const std::optional<uint64_t> multiboot = FindMultibootHeader(file);
  if (multiboot && !HasPvhNote(file)) return ParseMultiboot(file, *multiboot);
  if (LooksLikeElf(file)) return ParseElf(file);
  return ErrorOfUnknown(file);
}

}  // namespace quire
