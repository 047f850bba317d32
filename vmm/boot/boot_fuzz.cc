// Any bytes: they are refused as a kernel, or are one that is booted within the guest's memory.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "vmm/boot/boot_plan.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/boot/kernel_segment.h"
#include "vmm/boot/pc_layout.h"

namespace quire {
namespace {

void CheckImage(const KernelImage& image) {
  QUIRE_CHECK(!image.segments.empty());
  uint64_t end = kKernelBegin.value();
  for (const KernelSegment& segment : image.segments) {
    QUIRE_CHECK(segment.address.value() >= end && segment.size > ByteCount());
    QUIRE_CHECK(segment.content.size() <= segment.size.in_bytes());
    end = segment.end().value();
  }
  QUIRE_CHECK(end <= kLowMemoryLimit.value());
  QUIRE_CHECK(HasContentAt(image.segments, image.entry));
}

// Reads every byte, so that the sanitizer sees what they point to.
uint64_t Sum(absl::Span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<uint64_t>(byte);
  return sum;
}

uint64_t CheckPlan(const BootPlan& plan, ByteCount memory) {
  uint64_t end = 0, sum = 0;
  bool entry_found = false;
  for (const BootPlan::Piece& piece : plan.pieces) {
    QUIRE_CHECK(piece.gpa.value() >= end && !piece.bytes().empty());
    end = piece.gpa.value() + piece.bytes().size();
    entry_found |= piece.gpa.value() <= plan.entry && plan.entry < end;
    sum += Sum(piece.bytes());
  }
  QUIRE_CHECK(entry_found);
  QUIRE_CHECK(end <= PcRegions(memory).front().pages.size().in_bytes());
  return sum;
}

void Boot(const KernelImage& image) {
  static const std::vector<std::byte> initrd(5000);
  volatile uint64_t sum = 0;
  for (const ByteCount memory : {ByteCount::MiB(2), ByteCount::MiB(32), ByteCount::GiB(5)}) {
    const absl::StatusOr<BootPlan> plan = PlanBoot({.kernel = image,
                                                    .initrd = initrd,
                                                    .command_line = "console=ttyS0",
                                                    .memory = memory,
                                                    .vcpus = 2,
                                                    .virtio_devices = 3});
    if (plan.ok()) sum = sum + CheckPlan(*plan, memory);
  }
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto image = quire::ParseKernel("fuzz", {reinterpret_cast<const std::byte*>(data), size});
  if (!image.ok()) return 0;
  quire::CheckImage(*image);
  quire::Boot(*image);
  return 0;
}
