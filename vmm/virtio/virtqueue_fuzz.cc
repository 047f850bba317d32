// Any content of memory, with the rings anywhere in it, one over the other too: the walker finds an error or chains
// that keep their promises, and comes to an end.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {
namespace {

constexpr ByteCount kMemory = ByteCount::KiB(16);
constexpr int kMostChains = 64;  // a round of each queue, and more of the small ones

// The first bytes of an input; the rest is memory from address 0 on.
struct Header {
  uint8_t features;
  uint8_t size;  // logarithm
  uint16_t descriptors, available, used;
};

VirtqueueLayout LayoutOf(const Header& header) {
  // So that an address may lie beyond memory, but rarely.
  const auto address = [](uint16_t place) { return Gpa(uint64_t{place} % 0x2400 * 2); };
  return {.size = static_cast<uint16_t>(1 << header.size % 8),
          .descriptors = address(header.descriptors),
          .available = address(header.available),
          .used = address(header.used),
          .indirect = (header.features & 1) != 0,
          .event_index = (header.features & 2) != 0};
}

ByteCount CheckSegments(const std::vector<Segment>& segments) {
  ByteCount sum;
  for (const Segment& segment : segments) {
    const uint64_t size = segment.size.in_bytes();
    QUIRE_CHECK(size > 0 && size - 1 <= std::numeric_limits<uint64_t>::max() - segment.address.value());
    sum += segment.size;
  }
  return sum;
}

// Returns how many bytes were written. What is written may hit the rings.
ByteCount Use(const Chain& chain) {
  QUIRE_CHECK(CheckSegments(chain.readable()) == chain.readable_size());
  QUIRE_CHECK(CheckSegments(chain.writable()) == chain.writable_size());
  QUIRE_CHECK(chain.readable_size() + chain.writable_size() <= ByteCount::GiB(4));
  const absl::StatusOr<std::vector<std::byte>> read = chain.ReadAll(ByteCount::KiB(1));
  QUIRE_CHECK(!read.ok() || read->size() == chain.readable_size().in_bytes());
  std::array<std::byte, 24> bytes;
  bytes.fill(std::byte{1});
  const auto some = absl::MakeConstSpan(bytes).first(std::min(bytes.size(), chain.writable_size().in_bytes()));
  const ByteCount offset = ByteCount::Bytes((chain.writable_size().in_bytes() - some.size()) / 2);
  return chain.Write(offset, some).ok() ? offset + ByteCount::Bytes(some.size()) : ByteCount();
}

void Walk(FakeDeviceMemory& memory, const VirtqueueLayout& layout) {
  Virtqueue queue(memory, layout);
  for (int i = 0; i < kMostChains; ++i) {
    const absl::StatusOr<std::optional<Chain>> chain = queue.Pop();
    if (!chain.ok() || !chain->has_value()) return;
    QUIRE_CHECK((*chain)->head() < layout.size);
    if (!queue.Push(**chain, Use(**chain)).ok() || !queue.TakeInterrupt().ok()) return;
  }
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quire::Header header;
  if (size < sizeof header) return 0;
  std::memcpy(&header, data, sizeof header);
  const quire::VirtqueueLayout layout = quire::LayoutOf(header);
  if (!quire::Virtqueue::Check(layout).ok()) return 0;
  quire::FakeDeviceMemory memory(quire::kMemory);
  const size_t content = std::min(size - sizeof header, static_cast<size_t>(quire::kMemory.in_bytes()));
  std::memcpy(memory.At(quire::Gpa(0)), data + sizeof header, content);
  quire::Walk(memory, layout);
  return 0;
}
