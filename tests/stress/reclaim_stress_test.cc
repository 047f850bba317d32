// Everything at the same time: software vCPUs that fault, write and give pages up; devices that do the same by their
// own translations and by transfers; the daemons of reclaim and compaction; a second reclaimer; a thread that compacts
// and one that merges all the time; and one that invalidates, ages and wires memory. Meant for ThreadSanitizer above
// all.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/base/config.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/guest_memory.h"
#include "guest/huge/compaction_mode.h"
#include "guest/memory_manager.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/testing/page_content.h"
#include "mmu/ept.h"
#include "mmu/guest_device_memory.h"
#include "mmu/guest_regions.h"
#include "mmu/iotlb.h"
#include "notifiers/mmu_notifier.h"
#include "notifiers/notifier_chain.h"

namespace quire {
namespace {

// 3968 pages above the min watermark, for guests of 6500.
constexpr PageCount kPool = PageCount::OfBlocks(10);
#ifdef ABSL_HAVE_THREAD_SANITIZER
constexpr int kSlower = 3;  // ThreadSanitizer takes ten times as long for as much
#else
constexpr int kSlower = 1;
#endif
constexpr int kOperationsOfAVcpu = 20'000 / kSlower;
constexpr int kOperationsOfADevice = 8'000 / kSlower;

// The pages that a vCPU or device has for its own: every n-th of the guest's. What they hold is known here only by
// their version, 0 for zero.
class OwnPages {
 public:
  OwnPages(GuestMemory& memory, uint64_t number, uint64_t of)
      : memory_(memory), number_(number), of_(of), versions_((memory.size().in_pages() - number - 1) / of + 1) {}

 protected:
  Gfn GfnOf(uint64_t page) const { return Gfn(page * of_ + number_); }
  static Content ContentOf(uint64_t version) {
    if (version == 0) return Content::kZero;
    if (version % 16 == 0) return Content::kNoise;
    return version % 8 == 0 ? Content::kSameFilled : Content::kCompressible;
  }
  uint64_t SeedOf(uint64_t page) const { return GfnOf(page).value() << 32 | versions_[page]; }
  // Half of the time one of a warm eighth.
  uint64_t RandomPage(std::mt19937& random) const {
    return random() % (random() % 2 == 0 ? versions_.size() / 8 : versions_.size());
  }

  GuestMemory& memory_;
  const uint64_t number_;
  const uint64_t of_;
  std::vector<uint64_t> versions_;
};

// A disk, say: single words and whole pages by the IOTLB, and transfers to and from wired pages.
class Device : private OwnPages {
 public:
  Device(GuestMemory& memory, GuestDeviceMemory& device, uint64_t number, uint64_t of)
      : OwnPages(memory, number, of), device_(device) {}

  void Run() {
    std::mt19937 random(300);
    for (int i = 0; i < kOperationsOfADevice && !testing::Test::HasFailure(); ++i) {
      const uint64_t page = RandomPage(random);
      switch (random() % 4) {
        case 0:
          WriteNext(page);
          break;
        case 1:
          Transfer(page);
          break;
        case 2:
          if (random() % 8 == 0) Discard(page);
          break;
        default:
          ExpectVersion(page);
      }
    }
    for (uint64_t page = 0; page < versions_.size(); ++page) ExpectVersion(page);
  }

 private:
  void ExpectVersion(uint64_t page) {
    std::array<std::byte, kPageSize> bytes;
    ASSERT_EQ(device_.Read(ToGpa(GfnOf(page)), absl::MakeSpan(bytes)), absl::OkStatus());
    ExpectContent(page, bytes.data());
  }
  void ExpectContent(uint64_t page, const std::byte* bytes) {
    ASSERT_TRUE(HasContent(bytes, ContentOf(versions_[page]), SeedOf(page)))
        << "page " << GfnOf(page).value() << " of guest " << memory_.id() << " is not at the device's version "
        << versions_[page];
  }
  void WriteNext(uint64_t page) {
    ++versions_[page];
    const auto bytes = MakePage(ContentOf(versions_[page]), SeedOf(page));
    ASSERT_EQ(device_.Write(ToGpa(GfnOf(page)), bytes), absl::OkStatus());
  }
  void Transfer(uint64_t page) {
    const auto buffer = device_.Wire(ToGpa(GfnOf(page)), kOnePage.bytes());
    ASSERT_EQ(buffer.status(), absl::OkStatus());
    std::byte* const bytes = (*buffer)->pieces()[0].data();
    ExpectContent(page, bytes);
    ++versions_[page];
    FillPage(bytes, ContentOf(versions_[page]), SeedOf(page));
  }
  void Discard(uint64_t page) {
    ASSERT_EQ(device_.Discard(ToGpa(GfnOf(page)), kOnePage), absl::OkStatus());
    versions_[page] = 0;
  }

  GuestDeviceMemory& device_;
};

class Vcpu : private OwnPages {
 public:
  Vcpu(GuestMemory& memory, Ept& ept, uint64_t number, uint64_t of) : OwnPages(memory, number, of), ept_(ept) {}

  void Run() {
    EptVcpu vcpu(ept_);
    std::mt19937 random(static_cast<uint32_t>(number_ + 1));
    for (int i = 0; i < kOperationsOfAVcpu && !testing::Test::HasFailure(); ++i) {
      const uint64_t page = RandomPage(random);
      const uint32_t kind = random() % 100;
      if (kind < 2) {
        DiscardFrom(page, 1 + random() % 8);
      } else if (kind < 50) {
        ExpectVersion(vcpu, page);
      } else {
        WriteNext(vcpu, page);
      }
    }
    for (uint64_t page = 0; page < versions_.size(); ++page) ExpectVersion(vcpu, page);
  }

 private:
  void ExpectVersion(EptVcpu& vcpu, uint64_t page) {
    bool equal = false;
    const absl::Status status = vcpu.WithPage(GfnOf(page), Access::kRead, [&](std::byte* bytes) {
      equal = HasContent(bytes, ContentOf(versions_[page]), SeedOf(page));
    });
    ASSERT_EQ(status, absl::OkStatus());
    ASSERT_TRUE(equal) << "page " << GfnOf(page).value() << " of guest " << memory_.id() << " is not at version "
                       << versions_[page];
  }
  void WriteNext(EptVcpu& vcpu, uint64_t page) {
    ExpectVersion(vcpu, page);
    ++versions_[page];
    const absl::Status status = vcpu.WithPage(GfnOf(page), Access::kWrite, [&](std::byte* bytes) {
      FillPage(bytes, ContentOf(versions_[page]), SeedOf(page));
    });
    ASSERT_EQ(status, absl::OkStatus());
  }
  // Some of its pages, one by one: what lies between belongs to others.
  void DiscardFrom(uint64_t page, uint64_t count) {
    for (uint64_t p = page; p < std::min<uint64_t>(page + count, versions_.size()); ++p) {
      memory_.Discard(GfnRange(GfnOf(p), kOnePage));
      versions_[p] = 0;
    }
  }

  Ept& ept_;
};

class Guest {
 public:
  Guest(MemoryManager& manager, PageCount size, Placement placement, uint64_t vcpus)
      : manager_(manager),
        memory_(*manager.AddGuest(size, placement).value()),
        ept_(std::make_unique<Ept>(memory_)),
        devices_memory_(std::make_unique<GuestDeviceMemory>(
            memory_, GuestRegions{{.gpa = Gpa(0), .pages = GfnRange(Gfn(0), size)}})),
        device_(memory_, *devices_memory_, vcpus, vcpus + 1) {
    for (uint64_t v = 0; v < vcpus; ++v) vcpus_.emplace_back(memory_, *ept_, v, vcpus + 1);
  }
  ~Guest() {
    devices_memory_.reset();
    ept_.reset();
    manager_.RemoveGuest(&memory_);
  }

  GuestMemory& memory() { return memory_; }
  const IotlbCounters& translations() const { return devices_memory_->counters(); }
  void Start(std::vector<std::thread>& threads) {
    for (Vcpu& vcpu : vcpus_) threads.emplace_back([&vcpu] { vcpu.Run(); });
    threads.emplace_back([this] { device_.Run(); });
  }

 private:
  MemoryManager& manager_;
  GuestMemory& memory_;
  std::unique_ptr<Ept> ept_;
  std::unique_ptr<GuestDeviceMemory> devices_memory_;
  Device device_;
  std::deque<Vcpu> vcpus_;
};

// What managers to come will do to a guest's translations without changing what they lead to.
void Disturb(MemoryManager& manager, const std::vector<Guest*>& guests, const std::atomic<bool>& done) {
  std::mt19937 random(100);
  std::deque<FrameRange> wired;
  while (!done) {
    GuestMemory& memory = guests[random() % guests.size()]->memory();
    const Gfn first(random() % memory.size().in_pages());
    const GfnRange range = GfnRange(first, PageCount(1 + random() % 64)).Intersect(GfnRange(Gfn(0), memory.size()));
    switch (random() % 8) {
      case 0:
        memory.notifiers().ClearFlushYoung(range);
        break;
      case 1:
        memory.notifiers().ClearYoung(range);
        break;
      case 2:
        memory.notifiers().TestYoung(first);
        break;
      case 3:
        // Of the pool's 5120 pages; compaction makes room for as much as is asked for.
        if (manager.pool().wired() > PageCount(400)) break;
        if (absl::StatusOr<FrameRange> frames = manager.pool().AllocateWired(PageCount(1 + random() % 100));
            frames.ok()) {
          wired.push_back(*frames);
        }
        break;
      case 4:
        if (wired.size() < 4) break;
        manager.pool().FreeWired(wired.front());
        wired.pop_front();
        break;
      default: {
        const ScopedInvalidation invalidation(memory.notifiers(), {.range = range, .event = InvalidateEvent::kClear});
      }
    }
  }
  for (const FrameRange& frames : wired) manager.pool().FreeWired(frames);
}

// Pages of a guest as a device sees them that has them wired: they do not leave their frames.
class WiredRange {
 public:
  WiredRange(GuestMemory& memory, GfnRange pages) : memory_(memory) {
    const absl::Status wired = memory_.Wire(pages);
    EXPECT_EQ(wired, absl::OkStatus());
    if (wired.ok()) pages_ = pages;
    for (Gfn gfn = pages_.begin(); gfn < pages_.end(); ++gfn) frames_.push_back(memory_.EntryOf(gfn).frame());
  }
  ~WiredRange() {
    for (Gfn gfn = pages_.begin(); gfn < pages_.end(); ++gfn) {
      const PageEntry entry = memory_.EntryOf(gfn);
      EXPECT_EQ(entry.state(), PageState::kResident) << gfn;
      EXPECT_EQ(entry.frame(), frames_[(gfn - pages_.begin()).in_pages()]) << gfn;
    }
    memory_.Unwire(pages_);
  }

 private:
  GuestMemory& memory_;
  GfnRange pages_;
  std::vector<FrameNumber> frames_;
};

void WireAndUnwire(const std::vector<Guest*>& guests, const std::atomic<bool>& done) {
  std::mt19937 random(200);
  std::deque<WiredRange> wired;
  while (!done) {
    GuestMemory& memory = guests[random() % guests.size()]->memory();
    const Gfn first(random() % memory.size().in_pages());
    wired.emplace_back(memory,
                       GfnRange(first, PageCount(1 + random() % 32)).Intersect(GfnRange(Gfn(0), memory.size())));
    if (wired.size() > 8) wired.pop_front();
  }
}

// How the guests' pages lie, and whether compressed ones go to a swap area.
class ReclaimStressTest : public ::testing::TestWithParam<std::tuple<Placement, bool>> {
 protected:
  static Placement placement() { return std::get<0>(GetParam()); }
  static bool swaps() { return std::get<1>(GetParam()); }
  // Small, so that it has to be cleaned.
  static std::vector<std::unique_ptr<BackingStore>> SwapAreas() {
    std::vector<std::unique_ptr<BackingStore>> stores;
    if (swaps()) stores.push_back(std::make_unique<FakeBackingStore>(ByteCount::MiB(5)));
    return stores;
  }
};

TEST_P(ReclaimStressTest, EveryPageHoldsWhatItsVcpuWroteLast) {
  const std::unique_ptr<MemoryManager> manager =
      MemoryManager::Create({.limit = kPool,
                             .reservations = PageCount::OfBlocks(16),
                             .use_memfd = true,
                             .compaction = CompactionMode::kFault,
                             .reclaim_threads = 2,
                             .merge = true,
                             .islands = PageCount(500),
                             .open_swap = [] { return SwapAreas(); },
                             .on_stopped =
                                 [](GuestMemory& guest, const absl::Status& status) {
                                   ADD_FAILURE() << "guest " << guest.id() << " was stopped: " << status;
                                 }})
          .value();
  {
    Guest smp(*manager, PageCount(4'500), placement(), /*vcpus=*/4);
    Guest other(*manager, PageCount(2'000), placement(), /*vcpus=*/1);
    manager->StartReclaim();
    std::atomic<bool> done = false;
    std::thread reclaimer([&] {
      EvictionScratch scratch;
      while (!done) {
        manager->reclaimer().Reclaim(PageCount(64), scratch);
        manager->store().WriteOut(ByteCount::KiB(64));
      }
    });
    std::thread compactor([&] {
      while (!done) manager->pool().compaction()->MakeFreeBlocks(1);
    });
    std::thread merger([&] {
      while (!done) {
        manager->merger().Pass();
        manager->ReclaimShared(/*many=*/false);
      }
    });
    std::thread disturber([&] { Disturb(*manager, {&smp, &other}, done); });
    std::thread wirer([&] { WireAndUnwire({&smp, &other}, done); });
    std::vector<std::thread> vcpus;
    smp.Start(vcpus);
    other.Start(vcpus);
    for (std::thread& vcpu : vcpus) vcpu.join();
    done = true;
    reclaimer.join();
    compactor.join();
    merger.join();
    disturber.join();
    wirer.join();
    manager->StopReclaim();

    EXPECT_EQ(manager->Check(), absl::OkStatus());
    EXPECT_LE(manager->pool().budget().peak(), manager->pool().budget().limit());
    EXPECT_EQ(manager->wiring().limit.charged(), PageCount());
    EXPECT_GT(manager->swap().pages_out.value(), 1'000u);
    EXPECT_GT(manager->swap().pages_in.value(), 1'000u);
    EXPECT_GT(manager->merger().counters().scanned.value(), 1'000u);
    EXPECT_GT(manager->merger().counters().zero.value() + manager->merger().counters().merged.value(), 10u);
    if (swaps()) {
      EXPECT_GT(manager->store().areas()[0]->counters().bytes_read.value(), uint64_t{1} << 20);
    }
    EXPECT_GT(manager->faults().second_chance.value(), 100u);
    EXPECT_GT(smp.translations().dropped.value(), 100u);
    // In a reservation only compressed pages move.
    EXPECT_GT(manager->pool().compaction()->counters().migrated_pages.value(), 100u);
  }
  EXPECT_EQ(manager->Check(), absl::OkStatus());
  EXPECT_EQ(manager->store().statistics().stored, PageCount());
}

INSTANTIATE_TEST_SUITE_P(Placements, ReclaimStressTest,
                         ::testing::Combine(::testing::Values(Placement::kArena, Placement::kReservation),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) == Placement::kArena ? "Arena" : "Reservation") +
                                  (std::get<1>(info.param) ? "AndSwapArea" : "");
                         });

}  // namespace
}  // namespace quire
