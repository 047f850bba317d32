#include "vmm/virtio/virtio_console.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"

namespace quire {
namespace {

// Copied at a time, either way.
constexpr uint64_t kPiece = kPageSize;

}  // namespace

uint32_t VirtioConsole::id() const { return VIRTIO_ID_CONSOLE; }

absl::Status VirtioConsole::Process(int queue, Virtqueue& virtqueue) {
  return queue == kReceiveQueue ? FillBuffers(virtqueue) : WriteOut(virtqueue);
}

absl::Status VirtioConsole::FillBuffers(Virtqueue& virtqueue) {
  while (waiting() > 0) {
    const absl::StatusOr<std::optional<Chain>> popped = virtqueue.Pop();
    if (!popped.ok()) return popped.status();
    if (!popped->has_value()) return absl::OkStatus();
    const Chain& chain = **popped;
    const std::string bytes = Peek(std::min(kPiece, chain.writable_size().in_bytes()));
    absl::Status status = chain.Write(ByteCount(), {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    if (status.ok()) status = virtqueue.Push(chain, ByteCount::Bytes(bytes.size()));
    if (!status.ok()) return status;
    Drop(bytes.size());
  }
  return absl::OkStatus();
}

absl::Status VirtioConsole::WriteOut(Virtqueue& virtqueue) {
  return virtqueue.ServeAll([this](const Chain& chain) -> absl::StatusOr<ByteCount> {
    if (absl::Status status = WriteOut(chain); !status.ok()) return status;
    return ByteCount();
  });
}

absl::Status VirtioConsole::WriteOut(const Chain& chain) {
  std::array<std::byte, kPiece> buffer;
  const uint64_t size = std::min(chain.readable_size(), kMostOutput).in_bytes();
  for (uint64_t done = 0; done < size; done += kPiece) {
    const auto piece = absl::MakeSpan(buffer).first(std::min(kPiece, size - done));
    if (absl::Status status = chain.Read(ByteCount::Bytes(done), piece); !status.ok()) return status;
    output_(absl::string_view(reinterpret_cast<const char*>(piece.data()), piece.size()));
  }
  return absl::OkStatus();
}

void VirtioConsole::Receive(absl::string_view input) {
  {
    absl::MutexLock lock(&lock_);
    waiting_.insert(waiting_.end(), input.begin(), input.end());
  }
  AskToProcess(kReceiveQueue);
}

size_t VirtioConsole::waiting() const {
  absl::MutexLock lock(&lock_);
  return waiting_.size();
}

std::string VirtioConsole::Peek(size_t most) const {
  absl::MutexLock lock(&lock_);
  const auto end = waiting_.begin() + static_cast<ptrdiff_t>(std::min(most, waiting_.size()));
  return std::string(waiting_.begin(), end);
}

void VirtioConsole::Drop(size_t count) {
  absl::MutexLock lock(&lock_);
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(count));
}

}  // namespace quire
