#include "vmm/control/metrics.h"

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"
#include "prometheus/metric_type.h"
#include "prometheus/text_serializer.h"

namespace quire {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

double Value(uint64_t count) { return static_cast<double>(count); }
double Value(double value) { return value; }
double Value(ByteCount size) { return Value(size.in_bytes()); }

// The metrics of one name.
class Family {
 public:
  Family(MetricType type, std::string name, std::string help)
      : family_{.name = std::move(name), .help = std::move(help), .type = type, .metric = {}} {}

  template <class T>
  Family& Add(Labels labels, T value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = Value(value);
    family_.metric.push_back(std::move(metric));
    return *this;
  }
  template <class T>
  Family& Add(T value) {
    return Add(Labels(), value);
  }
  // By the values of one label.
  template <class T>
  Family& AddEach(const char* label, std::initializer_list<std::pair<const char*, T>> values) {
    for (const auto& [name, value] : values) Add({{label, name}}, value);
    return *this;
  }
  Family& AddEach(const char* label, const std::map<std::string, uint64_t>& values) {
    for (const auto& [name, value] : values) Add({{label, name}}, value);
    return *this;
  }

  MetricFamily Take() { return std::move(family_); }

 private:
  MetricFamily family_;
};

Family Counter(std::string name, std::string help) { return {MetricType::Counter, std::move(name), std::move(help)}; }
Family Gauge(std::string name, std::string help) { return {MetricType::Gauge, std::move(name), std::move(help)}; }

using Families = std::vector<MetricFamily>;

void AddRun(const Report& r, Families& all) {
  all.push_back(
      Gauge("quire_run", "1, of the run whose labels these are")
          .Add({{"version", r.version}, {"engine", std::string(Name(r.engine))}, {"accel", std::string(Name(r.accel))}},
               uint64_t{1})
          .Take());
  all.push_back(Gauge("quire_elapsed_seconds", "Since the start of the run").Add(r.elapsed_seconds).Take());
  all.push_back(Gauge("quire_policy", "1, of the values in force")
                    .Add({{"policy", "merge"}, {"value", std::string(Name(r.policies.merge))}}, uint64_t{1})
                    .Add({{"policy", "huge"}, {"value", std::string(Name(r.policies.huge))}}, uint64_t{1})
                    .Take());
  all.push_back(Counter("quire_cpu_seconds_total", "CPU time by kind of thread")
                    .AddEach<double>("threads", {{"vcpus", r.cpu_seconds.vcpus},
                                                 {"fault", r.cpu_seconds.fault},
                                                 {"reclaim", r.cpu_seconds.reclaim},
                                                 {"swap", r.cpu_seconds.swap},
                                                 {"merge", r.cpu_seconds.merge}})
                    .Take());
}

void AddPool(const PoolReport& p, Families& all) {
  all.push_back(Gauge("quire_pool_limit_bytes", "Size of the pool").Add(p.limit_bytes).Take());
  all.push_back(Gauge("quire_pool_peak_bytes", "The most of it that was in use").Add(p.peak_bytes).Take());
  all.push_back(Gauge("quire_pool_bytes", "What the pool is used for")
                    .AddEach<ByteCount>("state", {{"resident", p.resident_bytes},
                                                  {"out", p.out_bytes},
                                                  {"shared", p.shared_bytes},
                                                  {"compressed", p.compressed_bytes},
                                                  {"wired", p.wired_bytes},
                                                  {"poisoned", p.poisoned_bytes},
                                                  {"free", p.free_bytes}})
                    .Take());
  all.push_back(Gauge("quire_metadata_bytes", "Bookkeeping, beside the pool").Add(p.metadata_bytes).Take());
  all.push_back(
      Counter("quire_wirings_refused_total", "Requests to wire pages beyond a limit").Add(p.wirings_refused).Take());
}

void AddFaults(const FaultsReport& f, Families& all) {
  all.push_back(Counter("quire_faults_answered_total", "Faults that were answered").Add(f.total).Take());
  all.push_back(Counter("quire_faults_total",
                        "Pages by what a fault on them needed; faults for whole blocks, by the slow "
                        "thread, and that made room themselves")
                    .AddEach<uint64_t>("kind", {{"zero_fill", f.zero_fill},
                                                {"second_chance", f.second_chance},
                                                {"swap_in", f.swap_in},
                                                {"unshare", f.unshare},
                                                {"inherited", f.inherited},
                                                {"already_resident", f.already_resident},
                                                {"huge", f.huge},
                                                {"slow", f.slow},
                                                {"direct_reclaim", f.direct_reclaims},
                                                {"limit_reclaim", f.limit_reclaims}})
                    .Take());
  all.push_back(Gauge("quire_fault_seconds", "How long a fault takes, since the start of the run")
                    .AddEach<double>("percentile", {{"50", f.p50_us / 1e6}, {"99", f.p99_us / 1e6}})
                    .Take());
}

void AddSwap(const SwapReport& s, Families& all) {
  all.push_back(Counter("quire_swap_pages_total", "Pages into the store and out of it")
                    .AddEach<uint64_t>("direction", {{"out", s.pages_out}, {"in", s.pages_in}})
                    .Take());
  all.push_back(Counter("quire_swap_refused_total", "Times that a page stayed in memory, by why")
                    .AddEach<uint64_t>("reason", {{"limit", s.refused_limit}, {"wired", s.refused_wired}})
                    .Take());
  all.push_back(Gauge("quire_swap_stored_pages", "Pages in the store").Add(s.stored_pages).Take());
  Family pages = Gauge("quire_swap_tier_pages", "Stored pages by where they lie");
  Family bytes = Gauge("quire_swap_tier_bytes", "What they take there");
  Family errors = Counter("quire_swap_errors_total", "Transfers that failed");
  for (size_t i = 0; i < s.tiers.size(); ++i) {
    const Labels labels = {{"tier", s.tiers[i].name}, {"number", absl::StrCat(i)}};
    pages.Add(labels, s.tiers[i].pages);
    bytes.Add(labels, s.tiers[i].bytes);
    errors.Add(labels, s.tiers[i].errors);
  }
  for (Family* const family : {&pages, &bytes, &errors}) all.push_back(family->Take());
}

void AddMerging(const MergeReport& m, Families& all) {
  all.push_back(Counter("quire_merge_pages_total", "Pages by what became of them")
                    .AddEach<uint64_t>("result", {{"scanned", m.scanned_pages},
                                                  {"skipped", m.skipped_pages},
                                                  {"merged", m.merged_pages},
                                                  {"zero", m.zero_pages},
                                                  {"broken", m.broken_pages}})
                    .Take());
  all.push_back(Counter("quire_merge_passes_total", "Passes through all guests' memory").Add(m.passes).Take());
  all.push_back(
      Counter("quire_merge_refused_total", "Pages that did not merge, by why").AddEach("reason", m.refused).Take());
  all.push_back(Gauge("quire_merge_shared_frames", "Frames that pages share").Add(m.shared_frames).Take());
  all.push_back(Gauge("quire_merge_saved_bytes", "What that saves").Add(m.saved_bytes).Take());
}

void AddHuge(const HugeReport& h, Families& all) {
  all.push_back(Gauge("quire_huge_blocks_mapped", "Entries of 2 MiB").Add(h.blocks_mapped).Take());
  all.push_back(Counter("quire_huge_blocks_total", "Blocks of 2 MiB by what became of them")
                    .AddEach<uint64_t>("event", {{"whole_fault", h.whole_faults},
                                                 {"promotion", h.promotions},
                                                 {"prefetched", h.prefetched_blocks},
                                                 {"split", h.splits},
                                                 {"compaction", h.compactions}})
                    .Take());
  all.push_back(Counter("quire_huge_migrated_pages_total", "Pages moved for them").Add(h.migrated_pages).Take());
  all.push_back(
      Counter("quire_huge_refused_total", "What was not made whole, by why").AddEach("reason", h.refused).Take());
}

void AddNotifiers(const NotifierReport& n, Families& all) {
  all.push_back(Counter("quire_invalidations_total", "Of translations").Add(n.invalidations).Take());
  all.push_back(Counter("quire_invalidated_pages_total", "Pages of them").Add(n.pages).Take());
  all.push_back(Counter("quire_fault_retries_total", "Faults that met one").Add(n.retries).Take());
}

void AddGuests(const std::vector<GuestReport>& guests, Families& all) {
  Family size = Gauge("quire_guest_size_bytes", "Memory that the guest has");
  Family memory = Gauge("quire_guest_memory_bytes", "It by state, as the guest sees it");
  Family state = Gauge("quire_guest_state", "1, of the state that the guest is in");
  Family limit = Gauge("quire_guest_limit_bytes", "The guest's own limits, 0 for none");
  Family balloon = Gauge("quire_guest_balloon_bytes", "What its balloon has taken, and is to take");
  Family operations = Counter("quire_guest_operations_total", "Accesses to one page each");
  Family faults = Counter("quire_guest_faults_total", "Faults that were answered");
  Family reclaimed = Counter("quire_guest_reclaimed_pages_total", "Pages taken out of it and stored");
  Family mismatched = Counter("quire_guest_mismatched_pages_total", "Pages in which it read a wrong byte");
  for (const GuestReport& g : guests) {
    const auto label = [&](const char* name, const char* value) { return Labels{{"guest", g.name}, {name, value}}; };
    const Labels guest = {{"guest", g.name}};
    size.Add(guest, g.memory_bytes);
    memory.Add(label("state", "resident"), g.resident_bytes).Add(label("state", "out"), g.out_bytes);
    memory.Add(label("state", "shared"), g.shared_bytes).Add(label("state", "compressed"), g.compressed_bytes);
    memory.Add(label("state", "inherited"), g.inherited_bytes).Add(label("state", "wired"), g.wired_bytes);
    state.Add(label("state", g.state.c_str()), uint64_t{1});
    limit.Add(label("limit", "pool"), g.pool_limit_bytes).Add(label("limit", "swap"), g.swap_limit_bytes);
    if (g.pc) {
      balloon.Add(label("size", "actual"), g.pc->balloon_bytes);
      balloon.Add(label("size", "target"), g.pc->balloon_target_bytes);
    }
    operations.Add(guest, g.operations);
    faults.Add(guest, g.faults);
    reclaimed.Add(guest, g.reclaimed_pages);
    mismatched.Add(guest, g.mismatched_pages);
  }
  for (Family* const f : {&size, &memory, &state, &limit, &balloon, &operations, &faults, &reclaimed, &mismatched}) {
    all.push_back(f->Take());
  }
}

// The library writes the text format 0.0.4 of Prometheus. In OpenMetrics a counter is named without the `_total` of its
// samples, and the text has an end.
std::string ToOpenMetrics(absl::string_view text) {
  constexpr absl::string_view kTotal = "_total ";
  std::string open;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    // "# HELP name words", "# TYPE name counter"
    const size_t name_end = line.find(' ', sizeof "# TYPE");
    const bool of_counter = absl::StartsWith(line, "# ") && absl::EndsWith(line.substr(0, name_end + 1), kTotal);
    if (of_counter) {
      absl::StrAppend(&open, line.substr(0, name_end + 1 - kTotal.size()), line.substr(name_end), "\n");
    } else {
      absl::StrAppend(&open, line, "\n");
    }
  }
  return open + "# EOF\n";
}

}  // namespace

std::string MetricsText(const Report& report) {
  Families all;
  AddRun(report, all);
  if (report.engine == Engine::kQuire) {
    AddPool(report.pool, all);
    AddFaults(report.faults, all);
    AddSwap(report.swap, all);
    AddMerging(report.merge, all);
    AddHuge(report.huge, all);
    AddNotifiers(report.notifier, all);
  }
  AddGuests(report.guests, all);
  return ToOpenMetrics(prometheus::TextSerializer().Serialize(all));
}

}  // namespace quire
