#include "vmm/boot/kernel_segment.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"
#include "vmm/boot/pc_layout.h"

namespace quire {
namespace {

std::string Range(const KernelSegment& segment) {
  return absl::StrFormat("[0x%x, 0x%x)", segment.address.value(), segment.end().value());
}

absl::Status CheckPlace(const FileView& file, const KernelSegment& segment) {
  const uint64_t address = segment.address.value(), size = segment.size.in_bytes();
  if (address < kKernelBegin.value()) {
    return file.Error("the segment at ", absl::StrFormat("0x%x", address),
                      " lies below 1 MiB, where the machine's tables are: link it to 1 MiB or above");
  }
  if (address >= kLowMemoryLimit.value() || size > kLowMemoryLimit.value() - address) {
    return file.Error("the segment of ", size, " bytes at ", absl::StrFormat("0x%x", address),
                      " does not end below 3 GiB, where memory that a kernel may be loaded to does");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSegments(const FileView& file, std::vector<KernelSegment>& segments) {
  segments.erase(std::remove_if(segments.begin(), segments.end(),
                                [](const KernelSegment& segment) { return segment.size == ByteCount(); }),
                 segments.end());
  if (segments.empty()) return file.Error("has nothing to load");
  std::sort(segments.begin(), segments.end(),
            [](const KernelSegment& a, const KernelSegment& b) { return a.address < b.address; });
  for (size_t i = 0; i < segments.size(); ++i) {
    if (absl::Status status = CheckPlace(file, segments[i]); !status.ok()) return status;
    if (i > 0 && segments[i].address < segments[i - 1].end()) {
      return file.Error("the segments ", Range(segments[i - 1]), " and ", Range(segments[i]), " overlap");
    }
  }
  return absl::OkStatus();
}

bool HasContentAt(absl::Span<const KernelSegment> segments, Gpa gpa) {
  return std::any_of(segments.begin(), segments.end(), [gpa](const KernelSegment& segment) {
    return segment.address <= gpa && gpa.value() - segment.address.value() < segment.content.size();
  });
}

}  // namespace quire
