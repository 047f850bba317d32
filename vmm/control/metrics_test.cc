#include "vmm/control/metrics.h"

#include <stdio.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/options.h"
#include "vmm/report.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Report SomeReport() {
  Report report{.elapsed_seconds = 1.5};
  report.pool.limit_bytes = ByteCount::GiB(40);
  report.pool.resident_bytes = ByteCount::Bytes((uint64_t{1} << 53) - 1);
  report.faults.swap_in = 12;
  report.faults.p99_us = 1250;
  report.swap.tiers = {{.name = "ram", .pages = 3}, {.name = "file", .errors = 4}, {.name = "file"}};
  report.merge.refused = {{"it \"changes\"\n\\", 5}};
  report.guests = {{.name = "guest-0", .operations = 77, .state = "running"},
                   {.name = "guest-1", .state = "stopped", .pc = PcReport{.balloon_bytes = ByteCount::MiB(1)}}};
  return report;
}

TEST(MetricsTest, CountersAreNamedAsOpenMetricsHasThem) {
  const std::string text = MetricsText(SomeReport());
  for (const char* line :
       {"# TYPE quire_faults counter\n", "\nquire_faults_total{kind=\"swap_in\"} 12\n",
        "# TYPE quire_pool_bytes gauge\n", "\nquire_pool_bytes{state=\"resident\"} 9007199254740991\n",
        "\nquire_fault_seconds{percentile=\"99\"} 0.00125\n", "\nquire_guest_operations_total{guest=\"guest-0\"} 77\n",
        "\nquire_guest_balloon_bytes{guest=\"guest-1\",size=\"actual\"} 1048576\n",
        "\nquire_merge_refused_total{reason=\"it \\\"changes\\\"\\n\\\\\"} 5\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("# TYPE quire_faults_total")));
  EXPECT_TRUE(absl::EndsWith(text, "\n# EOF\n"));
}

TEST(MetricsTest, OfTheKernelsMemoryNothingIsSaid) {
  Report report = SomeReport();
  report.engine = Engine::kKernel;
  const std::string text = MetricsText(report);
  EXPECT_THAT(text, Not(HasSubstr("quire_pool_")));
  EXPECT_THAT(text, HasSubstr("quire_guest_operations_total"));
}

// Debian's python3-prometheus-client has a strict one.
TEST(MetricsTest, AParserOfOpenMetricsTakesThemAll) {
  if (access("/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py", R_OK) != 0) {
    GTEST_SKIP() << "there is no parser: apt-get install python3-prometheus-client";
  }
  const std::string path = absl::StrCat(testing::TempDir(), "/metrics");
  for (const Report& report : {SomeReport(), Report{}}) {
    std::ofstream(path) << MetricsText(report);
    EXPECT_EQ(std::system(absl::StrCat("/usr/bin/python3 -c 'from prometheus_client.openmetrics import parser\n"
                                       "families = parser.text_string_to_metric_families(open(\"",
                                       path, "\").read())\nassert sum(len(f.samples) for f in families) > 50'")
                              .c_str()),
              0);
  }
}

}  // namespace
}  // namespace quire
