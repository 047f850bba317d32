#include "vmm/summary.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "vmm/text.h"

namespace quire {
namespace {

struct Totals {
  ByteCount memory;
  uint64_t operations = 0;
  uint64_t verified = 0;
  uint64_t mismatched = 0;
  uint64_t stopped = 0;
};

Totals Add(const std::vector<GuestReport>& guests) {
  Totals totals;
  for (const GuestReport& guest : guests) {
    totals.memory += guest.memory_bytes;
    totals.operations += guest.operations;
    totals.verified += guest.verified_pages;
    totals.mismatched += guest.mismatched_pages;
    totals.stopped += guest.exit.ok() ? 0 : 1;
  }
  return totals;
}

std::string GuestLine(const GuestReport& guest) {
  return absl::StrFormat("%-9s %9s %15s %9s %15s %7s  %s\n", guest.name, FormatSize(guest.memory_bytes),
                         FormatCount(guest.operations), FormatShort(guest.operations_per_second),
                         FormatCount(guest.verified_pages), FormatCount(guest.mismatched_pages),
                         guest.exit.ok() ? "ok" : "stopped");
}

std::string GuestTable(const Report& report) {
  std::string text = absl::StrFormat("%-9s %9s %15s %9s %15s %7s  %s\n", "guest", "memory", "operations", "per s",
                                     "pages checked", "wrong", "end");
  for (const GuestReport& guest : report.guests) text += GuestLine(guest);
  return text;
}

std::string Legend(const std::vector<BarPart>& parts, ByteCount free, const Terminal& terminal) {
  static constexpr const char* kNames[] = {"resident", "out", "shared", "compressed", "wired"};  // as Fill
  std::string text;
  for (const BarPart& part : parts) {
    if (part.size == ByteCount()) continue;
    absl::StrAppend(&text, Cell(part.fill, terminal), " ", kNames[static_cast<size_t>(part.fill)], " ",
                    FormatSize(part.size), "  ");
  }
  return absl::StrCat(text, "free ", FormatSize(free));
}

std::string PoolLines(const PoolReport& pool, const Terminal& terminal) {
  const std::vector<BarPart> parts = {{Fill::kResident, pool.resident_bytes},
                                      {Fill::kOut, pool.out_bytes},
                                      {Fill::kShared, pool.shared_bytes},
                                      {Fill::kCompressed, pool.compressed_bytes},
                                      {Fill::kWired, pool.wired_bytes}};
  const int width = std::clamp(terminal.columns - 12, 10, 60);
  return absl::StrCat("pool      ", Bar(parts, pool.limit_bytes, width, terminal), "\n          ",
                      Legend(parts, pool.free_bytes, terminal), "\n          at most ", FormatSize(pool.peak_bytes),
                      " of ", FormatSize(pool.limit_bytes), " used, and ", FormatSize(pool.metadata_bytes),
                      " of metadata beside it\n");
}

std::string FormatMicroseconds(double us) {
  return us < 1000 ? absl::StrFormat("%.3g us", us) : absl::StrFormat("%.1f ms", us / 1000);
}

std::string FaultLine(const FaultsReport& faults) {
  std::string text = absl::StrCat("faults    ", FormatCount(faults.total));
  if (faults.total == 0) return text + "\n";
  absl::StrAppend(&text, " for ", FormatCount(faults.zero_fill), " zero pages, ", FormatCount(faults.second_chance),
                  " second chances, ", FormatCount(faults.swap_in), " swapped in");
  if (faults.unshare > 0) absl::StrAppend(&text, ", ", FormatCount(faults.unshare), " unshared");
  if (faults.p50_us > 0)
    absl::StrAppend(&text, "; median ", FormatMicroseconds(faults.p50_us), ", 99th percentile ",
                    FormatMicroseconds(faults.p99_us));
  return text + "\n";
}

std::string SwapLine(const SwapReport& swap) {
  if (swap.pages_out == 0) return "";
  const std::string duplicates =
      swap.deduplicated_pages > 0 ? absl::StrCat(" (", FormatCount(swap.deduplicated_pages), " duplicates)") : "";
  std::string text = absl::StrCat("swap      ", FormatCount(swap.pages_out), " pages out", duplicates, ", ",
                                  FormatCount(swap.pages_in), " in; ", FormatSize(PageCount(swap.stored_pages).bytes()),
                                  " stored in ", FormatSize(swap.stored_bytes), "\n");
  for (const SwapTierReport& tier : swap.tiers) {
    if (tier.store.empty()) continue;
    absl::StrAppend(&text, "          ", FormatSize(PageCount(tier.pages).bytes()), " of it in ", tier.store,
                    ", where ", FormatSize(tier.bytes), " of ", FormatSize(tier.limit_bytes), " are used; ",
                    FormatSize(tier.written_bytes), " written, ", FormatSize(tier.read_bytes), " read",
                    tier.errors > 0 ? absl::StrCat(", ", Plural(tier.errors, "error")) : "", "\n");
  }
  return text;
}

std::string WireLine(const PoolReport& pool) {
  if (pool.wirings_refused == 0) return "";
  return absl::StrCat(
      "wired     ", Plural(pool.wirings_refused, "request"),
      " of guests to keep pages in memory refused: more than half of the pool, or of their own limit\n");
}

std::string MergeLine(const MergeReport& merge) {
  if (merge.merged_pages + merge.zero_pages == 0) return "";
  return absl::StrCat("merge     ", FormatCount(merge.merged_pages), " pages shared frames, ",
                      FormatCount(merge.zero_pages), " were zero; ", FormatSize(merge.saved_bytes), " saved now, ",
                      FormatCount(merge.broken_pages), " were written to\n");
}

std::string CloneLine(const ClonesReport& clones) {
  if (clones.count == 0) return "";
  return absl::StrCat("clones    ", FormatCount(static_cast<uint64_t>(clones.count)), ", made in ",
                      FormatMicroseconds(clones.clone_seconds_median * 1e6), " each, of ",
                      FormatSize(clones.pool_bytes_each + clones.metadata_bytes_each),
                      " at first; the template froze in ", FormatMicroseconds(clones.freeze_seconds * 1e6), "\n");
}

std::string CompactionLine(const HugeReport& huge) {
  if (huge.migrated_pages == 0) return "";
  return absl::StrCat("compact   ", FormatCount(huge.compactions), " blocks or ranges made free, ",
                      FormatCount(huge.migrated_pages), " pages moved\n");
}

std::string ContentLine(double ratio) {
  if (ratio <= 0) return "";
  return absl::StrFormat("content   a page of it takes %.0f%% of its size in LZ4, a ratio of %.2f\n", 100 / ratio,
                         ratio);
}

// The guests that did not end well, one line each.
std::string Failures(const Report& report) {
  std::string text;
  for (const GuestReport& guest : report.guests) {
    if (!guest.exit.ok()) absl::StrAppend(&text, guest.name, " was stopped: ", Sentence(guest.exit.message()), "\n");
    if (!guest.pc) continue;
    for (const std::string& failure : guest.pc->failed_devices) {
      absl::StrAppend(&text, "a device of ", guest.name, " stopped: ", Sentence(failure), "\n");
    }
  }
  return text;
}

// How PCs ended, whose kernels check nothing: "guest-0 powered off, guest-1 reset itself".
std::string Ends(const Report& report) {
  return absl::StrJoin(report.guests, ", ", [](std::string* text, const GuestReport& guest) {
    const std::string how = guest.pc->exit_status ? absl::StrCat(" ended with status ", *guest.pc->exit_status)
                            : !guest.exit.ok()    ? " was stopped"
                            : guest.pc->ended == "power off" ? " powered off"
                            : guest.pc->ended == "reset"     ? " reset itself"
                                                             : " was switched off";
    absl::StrAppend(text, guest.name, how);
  });
}

std::string Who(const Report& report, const Totals& totals) {
  const auto same = [&](const GuestReport& guest) { return guest.memory_bytes == report.guests[0].memory_bytes; };
  const std::string guests = Plural(report.guests.size(), "guest");
  if (std::all_of(report.guests.begin(), report.guests.end(), same)) {
    return absl::StrCat(guests, " of ",
                        report.guests.empty() ? "no memory" : FormatSize(report.guests[0].memory_bytes));
  }
  return absl::StrCat(guests, " with ", FormatSize(totals.memory), " in all");
}

std::string Meaning(const Report& report, const Totals& totals) {
  const std::string where =
      report.engine == Engine::kKernel ? "memory that the host manages" : FormatSize(report.pool.limit_bytes);
  if (!report.guests.empty() && report.guests[0].pc) {
    return absl::StrCat(Who(report, totals), " ran in ", where, ": ", Ends(report), ".\n");
  }
  const std::string checks =
      totals.mismatched == 0
          ? absl::StrCat("0 wrong bytes in ", Plural(totals.verified, "check"))
          : absl::StrCat("WRONG BYTES in ", FormatCount(totals.mismatched), " of ", Plural(totals.verified, "check"));
  const std::string stopped =
      totals.stopped == 0 ? "" : absl::StrCat(", and ", FormatCount(totals.stopped), " did not live to the end");
  return absl::StrCat(Who(report, totals), " ran in ", where, ": ", checks, stopped, ".\n");
}

}  // namespace

std::string Summary(const Report& report, const Terminal& terminal) {
  const Totals totals = Add(report.guests);
  std::string text = GuestTable(report);
  if (report.engine == Engine::kQuire) {
    absl::StrAppend(&text, "\n", PoolLines(report.pool, terminal), WireLine(report.pool), FaultLine(report.faults),
                    SwapLine(report.swap), MergeLine(report.merge), CloneLine(report.clones),
                    CompactionLine(report.huge), ContentLine(report.content_ratio));
  }
  return absl::StrCat(text, "\n", Failures(report), Meaning(report, totals));
}

}  // namespace quire
