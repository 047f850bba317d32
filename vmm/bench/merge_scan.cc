#include "vmm/bench/merge_scan.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "vmm/bench/duplicate_counter.h"
#include "vmm/bench/merging_side.h"
#include "vmm/interrupt.h"
#include "workloads/content.h"
#include "workloads/content_file.h"
#include "workloads/content_ratio.h"

namespace quire {
namespace {

constexpr uint64_t kFoundPercent = 95;
constexpr uint64_t kCommonPercent = 75;
constexpr uint32_t kVersion = 1;  // of all pages
constexpr PageCount kRatioSample(1024);

// A look takes some ten microseconds on another CPU; what the scanner does until it is seen to be done is counted.
constexpr absl::Duration kLookEvery = absl::Microseconds(500);

// Ten times what ksmd takes for a pass as it comes: 100 pages, then a rest of 20 ms. It needs two passes or three.
constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr absl::Duration kPatienceForPage = absl::Milliseconds(2);

class MergeScan {
 public:
  MergeScan(std::unique_ptr<MergingSide> side, ContentFile file, const RunOptions& options)
      : side_(std::move(side)), file_(std::move(file)), options_(options) {}

  absl::Status Fill();
  // Until the scanner has found enough, or `patience` is at its end.
  absl::StatusOr<Measurement> Scan(absl::Duration patience);
  // Reads every page; returns how many are wrong.
  absl::StatusOr<uint64_t> Verify();

 private:
  PageCount size() const { return PageCount(options_.memory.in_bytes() / kPageSize / Guests()); }
  uint64_t Guests() const { return static_cast<uint64_t>(options_.guests); }
  Content ContentOf(int guest) const;
  // Calls `use` with the bytes of all pages, their guest's content and their number.
  template <class Use>
  absl::Status ForEachPage(Access access, Use use);

  const std::unique_ptr<MergingSide> side_;
  const ContentFile file_;
  const RunOptions& options_;
  DuplicateCounter oracle_;
};

Content MergeScan::ContentOf(int guest) const {
  return {.key = options_.seed + 1 + static_cast<uint64_t>(guest),
          .common_key = options_.seed,
          .common_pages = (size() * kCommonPercent / 100).in_pages(),
          .file_pages = file_.words(),
          .file_page_count = file_.size().in_pages()};
}

template <class Use>
absl::Status MergeScan::ForEachPage(Access access, Use use) {
  for (int guest = 0; guest < options_.guests; ++guest) {
    const Content content = ContentOf(guest);
    for (uint64_t page = 0; page < size().in_pages(); ++page) {
      if (CaughtInterrupt() != 0) return absl::CancelledError("interrupted");
      const absl::Status status =
          side_->WithPage(guest, Gfn(page), access, [&](std::byte* bytes) { use(bytes, content, page); });
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status MergeScan::Fill() {
  return ForEachPage(Access::kWrite, [&](std::byte* bytes, const Content& content, uint64_t page) {
    GeneratePage(reinterpret_cast<uint64_t*>(bytes), content, page, kVersion);
    oracle_.Add(bytes);
  });
}

absl::StatusOr<uint64_t> MergeScan::Verify() {
  uint64_t wrong = 0;
  absl::Status status = ForEachPage(Access::kRead, [&](const std::byte* bytes, const Content& content, uint64_t page) {
    wrong += !IsPageRight(reinterpret_cast<const uint64_t*>(bytes), content, page, kVersion);
  });
  if (!status.ok()) return status;
  return wrong;
}

absl::StatusOr<Measurement> MergeScan::Scan(absl::Duration patience) {
  const PageCount possible = oracle_.duplicates();
  const MonotonicTime begin = RealClock().Now();
  if (absl::Status status = side_->StartScanner(); !status.ok()) return status;
  for (;;) {
    const absl::StatusOr<ScanProgress> progress = side_->Look();
    if (!progress.ok()) return progress.status();
    const absl::Duration wall = RealClock().Now() - begin;
    if (progress->saved * 100 >= possible * kFoundPercent) {
      const double cpu = absl::ToDoubleSeconds(progress->cpu);
      const auto bytes = [](PageCount pages) { return static_cast<double>(pages.bytes().in_bytes()); };
      return Measurement{.value = cpu,
                         .cpu_seconds = cpu,
                         .content_ratio = MeasureContentRatio(ContentOf(0), kRatioSample),
                         .details = {{"guests", options_.guests},
                                     {"memory_bytes", bytes(oracle_.pages())},
                                     {"oracle_bytes", bytes(possible)},
                                     {"saved_bytes", bytes(progress->saved)},
                                     {"scanned_pages", static_cast<double>(progress->scanned)},
                                     {"skipped_pages", static_cast<double>(progress->skipped)},
                                     {"passes", static_cast<double>(progress->passes)},
                                     {"wall_seconds", absl::ToDoubleSeconds(wall)}}};
    }
    if (wall > patience) {
      return Measurement{.missed = absl::StrFormat("in %.0f seconds %d of %d pages that could be saved were",
                                                   absl::ToDoubleSeconds(wall), progress->saved.in_pages(),
                                                   possible.in_pages())};
    }
    if (CaughtInterrupt() != 0) return absl::CancelledError("interrupted");
    absl::SleepFor(kLookEvery);
  }
}

}  // namespace

absl::StatusOr<Measurement> MeasureMergeScan(const RunOptions& options, Side side) {
  return MeasureMergeScan(options, side, kPatience + kPatienceForPage * (options.memory.in_bytes() / kPageSize));
}

absl::StatusOr<Measurement> MeasureMergeScan(const RunOptions& options, Side side, absl::Duration patience) {
  const PageCount all = PageCount(options.memory.in_bytes() / kPageSize);
  const MergingOptions merging = {.guests = options.guests,
                                  .memory = all / static_cast<uint64_t>(options.guests),
                                  .pool = PageCount(options.pool.in_bytes() / kPageSize)};
  if (merging.memory == PageCount()) {
    return absl::InvalidArgumentError(absl::StrCat("--memory=", options.memory.in_bytes(),
                                                   " is less than a page for each of ", options.guests,
                                                   " guests: write more, or fewer guests"));
  }
  absl::StatusOr<ContentFile> file = ContentFile::Load(*options.content);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<MergingSide>> made =
      side == Side::kQuire ? MakeQuireSide(merging) : MakeKernelSide(merging);
  if (!made.ok()) return made.status();
  MergeScan scan(*std::move(made), *std::move(file), options);
  if (absl::Status status = scan.Fill(); !status.ok()) return status;
  absl::StatusOr<Measurement> measured = scan.Scan(patience);
  if (!measured.ok()) return measured;
  const absl::StatusOr<uint64_t> wrong = scan.Verify();
  if (!wrong.ok()) return wrong.status();
  measured->mismatched_pages = *wrong;
  return measured;
}

}  // namespace quire
