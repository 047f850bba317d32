#include "vmm/virtio/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace quire {
namespace {

// Linux sends 256 page numbers at a time, and ten statistics. What is more than these is no driver's.
constexpr ByteCount kMostPageNumbers = ByteCount::KiB(64);
constexpr ByteCount kMostStatistics = ByteCount::KiB(1);

static_assert(VIRTIO_BALLOON_PFN_SHIFT == kPageShift);

// The whole pages in a segment, which may begin and end anywhere.
struct WholePages {
  Gpa begin;
  PageCount size;
};
WholePages PagesIn(const Segment& segment) {
  const uint64_t skip = (kPageSize - segment.address.offset_in_page()) % kPageSize;
  if (segment.size.in_bytes() < skip) return {};
  return {.begin = segment.address + ByteCount::Bytes(skip),
          .size = PageCount((segment.size.in_bytes() - skip) / kPageSize)};
}

void Set(Balloon::Statistics& statistics, uint16_t tag, uint64_t value) {
  switch (tag) {
    case VIRTIO_BALLOON_S_SWAP_IN:
      statistics.swapped_in = ByteCount::Bytes(value);
      break;
    case VIRTIO_BALLOON_S_SWAP_OUT:
      statistics.swapped_out = ByteCount::Bytes(value);
      break;
    case VIRTIO_BALLOON_S_MAJFLT:
      statistics.major_faults = value;
      break;
    case VIRTIO_BALLOON_S_MINFLT:
      statistics.minor_faults = value;
      break;
    case VIRTIO_BALLOON_S_MEMFREE:
      statistics.free = ByteCount::Bytes(value);
      break;
    case VIRTIO_BALLOON_S_MEMTOT:
      statistics.total = ByteCount::Bytes(value);
      break;
    case VIRTIO_BALLOON_S_AVAIL:
      statistics.available = ByteCount::Bytes(value);
      break;
    case VIRTIO_BALLOON_S_CACHES:
      statistics.caches = ByteCount::Bytes(value);
      break;
    case VIRTIO_BALLOON_S_HTLB_PGALLOC:
      statistics.huge_allocations = value;
      break;
    case VIRTIO_BALLOON_S_HTLB_PGFAIL:
      statistics.huge_failures = value;
      break;
    default:  // of a later version
      break;
  }
}

}  // namespace

Balloon::Balloon(DeviceMemory& memory, BalloonOffer offer, std::function<absl::Time()> now)
    : memory_(memory),
      offer_(offer),
      now_(std::move(now)),
      hint_command_(VIRTIO_BALLOON_CMD_ID_STOP),
      last_hint_round_(VIRTIO_BALLOON_CMD_ID_DONE) {}

uint32_t Balloon::id() const { return offer_.exists ? VIRTIO_ID_BALLOON : 0; }

// Not MUST_TELL_HOST: what the guest takes out of the balloon it may use at once, for a page that was discarded is a
// page of zeros.
uint64_t Balloon::features() const {
  return FeatureBit(VIRTIO_BALLOON_F_STATS_VQ) | FeatureBit(VIRTIO_BALLOON_F_FREE_PAGE_HINT) |
         FeatureBit(VIRTIO_BALLOON_F_PAGE_POISON) |
         (offer_.deflates_on_oom ? FeatureBit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) : 0) |
         (offer_.reports_free_pages ? FeatureBit(VIRTIO_BALLOON_F_REPORTING) : 0);
}

std::vector<uint16_t> Balloon::queue_sizes() const { return std::vector<uint16_t>(kQueues, 128); }

// --- The configuration space.

void Balloon::SetTarget(PageCount target) {
  const uint64_t most = std::numeric_limits<uint32_t>::max();
  const uint32_t pages = static_cast<uint32_t>(std::min(target.in_pages(), most));
  ChangeConfig([&] { target_.store(pages, std::memory_order_relaxed); });
}

void Balloon::ReadConfig(uint64_t offset, absl::Span<std::byte> data) {
  virtio_balloon_config config = {};
  config.num_pages = target_.load(std::memory_order_relaxed);
  config.actual = actual_.load(std::memory_order_relaxed);
  config.free_page_hint_cmd_id = hint_command_.load(std::memory_order_relaxed);
  config.poison_val = poison_.load(std::memory_order_relaxed);
  CopyConfig(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&config), sizeof config), offset, data);
}

// Of any size and alignment: the bytes go where they belong, and the others stay.
void Balloon::WriteConfig(uint64_t offset, absl::Span<const std::byte> data) {
  const auto write = [&](std::atomic<uint32_t>& field, uint64_t at) {
    uint32_t value = field.load(std::memory_order_relaxed);
    auto* const bytes = reinterpret_cast<std::byte*>(&value);
    for (uint64_t i = 0; i < sizeof value; ++i) {
      if (at + i >= offset && at + i - offset < data.size()) bytes[i] = data[at + i - offset];
    }
    field.store(value, std::memory_order_relaxed);
  };
  write(actual_, offsetof(virtio_balloon_config, actual));
  write(poison_, offsetof(virtio_balloon_config, poison_val));
}

void Balloon::SetFeatures(uint64_t features) { poisons_ = (features & FeatureBit(VIRTIO_BALLOON_F_PAGE_POISON)) != 0; }

void Balloon::Reset() {
  actual_ = 0;
  poison_ = 0;
  poisons_ = false;
  hint_command_ = VIRTIO_BALLOON_CMD_ID_STOP;
  hint_round_ = 0;
  if (std::exchange(awaits_statistics_, false)) statistics_wanted_ = true;  // the next driver will answer
}

// --- Queues.

absl::Status Balloon::Process(int queue, Virtqueue& virtqueue) {
  if (queue == kStatistics) return ProcessStatistics(virtqueue);
  return virtqueue.ServeAll([this, queue](const Chain& chain) -> absl::StatusOr<ByteCount> {
    absl::Status status;
    if (queue == kHints) {
      status = TakeHint(chain);
    } else if (queue == kReports) {
      TakeReport(chain);
    } else {
      status = TakePages(queue, chain);
    }
    if (!status.ok()) return status;
    return ByteCount();
  });
}

absl::Status Balloon::TakePages(int queue, const Chain& chain) {
  const absl::StatusOr<std::vector<std::byte>> bytes = chain.ReadAll(kMostPageNumbers);
  if (!bytes.ok()) return bytes.status();
  std::vector<uint32_t> pages(bytes->size() / sizeof(uint32_t));
  if (!pages.empty()) std::memcpy(pages.data(), bytes->data(), pages.size() * sizeof(uint32_t));
  if (queue == kInflate) {
    GiveBack(std::move(pages));
  } else {
    counters_.deflated.Add(pages.size());  // they come back as they are touched
  }
  return absl::OkStatus();
}

// Neighbours by one call: each costs a look at their block, and an invalidation.
void Balloon::GiveBack(std::vector<uint32_t> pages) {
  std::sort(pages.begin(), pages.end());
  pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
  for (size_t first = 0; first < pages.size();) {
    size_t end = first + 1;
    while (end < pages.size() && pages[end] == pages[end - 1] + 1) ++end;
    counters_.inflated.Add(Discard(ToGpa(Gfn(pages[first])), PageCount(end - first)).in_pages());
    first = end;
  }
}

// A run that is not all memory may have parts that are: halves of it are tried, down to pages. There are so many
// numbers in a buffer, and no more tries than twice that.
PageCount Balloon::Discard(Gpa begin, PageCount size) {
  if (size == PageCount()) return size;
  if (memory_.Discard(begin, size).ok()) return size;
  if (size == kOnePage) {
    counters_.refused.Add();
    return PageCount();
  }
  const PageCount half = size / 2;
  const PageCount first = Discard(begin, half);
  return first + Discard(begin + half.bytes(), size - half);
}

// --- Reports.

// Linux names the pages as memory to be written to. They are the driver's again once the chain has been pushed.
void Balloon::TakeReport(const Chain& chain) {
  TakeReport(chain.writable());
  TakeReport(chain.readable());
}

void Balloon::TakeReport(const std::vector<Segment>& segments) {
  for (const Segment& segment : segments) {
    const WholePages pages = PagesIn(segment);
    if (pages.size == PageCount()) continue;
    if (KeepsFreePages()) {
      counters_.kept.Add(pages.size.in_pages());
    } else {
      const bool discarded = memory_.Discard(pages.begin, pages.size).ok();
      (discarded ? counters_.reported : counters_.refused).Add(pages.size.in_pages());
    }
  }
}

// --- Statistics.

void Balloon::RequestStatistics() {
  statistics_wanted_ = true;
  AskToProcess(kStatistics);
}

Balloon::Statistics Balloon::statistics() const {
  absl::MutexLock lock(&lock_);
  return statistics_;
}

// The driver fills its one buffer when it comes, and again each time that it gets it back: so the buffer that lies
// there is old, and goes back to be filled; the next one is the answer, and goes back too. What the driver makes of
// that lies there until the next request. The device never keeps a buffer, since the driver may take the queue from
// under it.
absl::Status Balloon::ProcessStatistics(Virtqueue& virtqueue) {
  while (awaits_statistics_ || statistics_wanted_) {
    const absl::StatusOr<std::optional<Chain>> popped = virtqueue.Pop();
    if (!popped.ok()) return popped.status();
    if (!popped->has_value()) return absl::OkStatus();
    absl::Status status;
    if (awaits_statistics_) {
      status = ReadStatistics(**popped);
    } else {
      statistics_wanted_ = false;
    }
    awaits_statistics_ = !awaits_statistics_;
    if (status.ok()) status = virtqueue.Push(**popped, ByteCount());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Balloon::ReadStatistics(const Chain& chain) {
  const ByteCount size = std::min(chain.readable_size(), kMostStatistics);
  std::vector<std::byte> bytes(size.in_bytes());
  if (absl::Status status = chain.Read(ByteCount(), absl::MakeSpan(bytes)); !status.ok()) return status;
  Statistics read;
  read.at = now_();
  for (size_t at = 0; at + sizeof(virtio_balloon_stat) <= bytes.size(); at += sizeof(virtio_balloon_stat)) {
    virtio_balloon_stat entry;
    std::memcpy(&entry, &bytes[at], sizeof entry);
    Set(read, entry.tag, entry.val);
  }
  absl::MutexLock lock(&lock_);
  statistics_ = read;
  return absl::OkStatus();
}

// --- Hints.

// A round has a number, so that hints of an earlier one are not taken for those of this.
void Balloon::RequestHints() {
  uint32_t round;
  {
    absl::MutexLock lock(&lock_);
    if (++last_hint_round_ <= VIRTIO_BALLOON_CMD_ID_DONE) last_hint_round_ = VIRTIO_BALLOON_CMD_ID_DONE + 1;
    round = last_hint_round_;
  }
  ChangeConfig([&] { hint_command_ = round; });
}

// The driver sends the number of the round, then pages, as memory to be written to, then STOP.
absl::Status Balloon::TakeHint(const Chain& chain) {
  if (chain.readable_size() >= ByteCount::Bytes(sizeof(uint32_t))) {
    uint32_t command = 0;
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(&command), sizeof command);
    if (absl::Status status = chain.Read(ByteCount(), bytes); !status.ok()) return status;
    const uint32_t current = hint_command_;
    if (command == VIRTIO_BALLOON_CMD_ID_STOP && hint_round_ != 0 && hint_round_ == current) {
      // All has been said: the guest may have its pages back. Unless another round has been asked for meanwhile.
      ChangeConfig([&] {
        uint32_t round = current;
        hint_command_.compare_exchange_strong(round, VIRTIO_BALLOON_CMD_ID_DONE);
      });
    }
    hint_round_ = command == current && command > VIRTIO_BALLOON_CMD_ID_DONE ? command : 0;
  }
  if (hint_round_ == 0 || hint_round_ != hint_command_) return absl::OkStatus();
  for (const Segment& segment : chain.writable()) counters_.hinted.Add(PagesIn(segment).size.in_pages());
  return absl::OkStatus();
}

}  // namespace quire
