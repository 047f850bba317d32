#include "vmm/virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"

namespace quire {
namespace {

// The most that is given at a time. Linux asks for 64 bytes or so; who wants more asks again.
constexpr uint64_t kMost = 256;

absl::Status GetRandom(absl::Span<std::byte> bytes) {
  // Up to 256 bytes come whole, once the host has its entropy.
  ssize_t count = -1;
  do {
    count = getrandom(bytes.data(), bytes.size(), 0);
  } while (count < 0 && errno == EINTR);
  if (count == static_cast<ssize_t>(bytes.size())) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "the host gave no random bytes for the guest");
}

}  // namespace

uint32_t VirtioRng::id() const { return VIRTIO_ID_RNG; }

absl::Status VirtioRng::Process(int /*queue*/, Virtqueue& virtqueue) {
  return virtqueue.ServeAll([](const Chain& chain) -> absl::StatusOr<ByteCount> {
    std::array<std::byte, kMost> buffer;
    const auto bytes = absl::MakeSpan(buffer).first(std::min(kMost, chain.writable_size().in_bytes()));
    absl::Status status = GetRandom(bytes);
    if (status.ok()) status = chain.Write(ByteCount(), bytes);
    if (!status.ok()) return status;
    return ByteCount::Bytes(bytes.size());
  });
}

}  // namespace quire
