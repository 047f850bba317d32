#include "vmm/results/page.h"

#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quire::results {
namespace {

using Json = nlohmann::json;

constexpr char kHostile[] = "</script><script>alert(1)</script><!--&\"'";

// Every text that a file has is `text`.
std::string PageOf(const std::string& text) {
  const Json experiment{
      {"form", 1},
      {"name", text},
      {"asks", text},
      {"about", text},
      {"file", text},
      {"axes", {{{"name", text}, {"values", {text, "b"}}}}},
      {"charts",
       {{{"kind", "values"}, {"title", text}, {"x", text}, {"y", text}},
        {{"kind", "values"}, {"title", text}, {"y", text}, {"series", text}, {"compare", {text, "b"}}},
        {{"kind", "memory"}, {"title", text}},
        {{"kind", "coverage"}, {"title", text}, {"series", text}},
        {{"kind", "latency"}, {"title", text}, {"series", text}},
        {{"kind", text}, {"title", text}}}}};
  const Json run{
      {"form", 1},
      {"run", text},
      {"point", {{text, text}}},
      {"repetition", 1},
      {"settings", {{text, text}}},
      {"started", text},
      {"version", text},
      {"host", {{text, text}, {"findings", {{{"name", text}, {"found", text}}}}}},
      {"outcome", "ok"},
      {"values", {{text, 1.25}, {"huge_share", 0.5}}},
      {"phases", {{{"name", text}, {"begin", 0}, {"end", 1}}}},
      {"timeline", {{"seconds", {0, 1}}, {"resident_bytes", {1, 2}}, {"huge_bytes", {1, 1}}, {text, {1, 2}}}},
      {"latency", {{"us", {1, 2}}, {"counts", {1, 2, 3}}}}};
  Json killed = run;
  killed["run"] = text + "2";
  killed["outcome"] = "killed";
  killed["reason"] = text;
  const absl::StatusOr<ExperimentResults> results =
      ParseResults(experiment.dump(), absl::StrCat(run.dump(), "\n", killed.dump(), "\nno JSON\n{\"torn"));
  EXPECT_TRUE(results.ok()) << results.status();
  return Page(*results, FindingsOf(*results));
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

Json DataOf(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const size_t at = page.find(begin) + begin.size();
  return Json::parse(page.substr(at, page.find("</script>", at) - at));
}

TEST(PageTest, TakesNothingForMarkup) {
  const std::string page = PageOf(kHostile);
  EXPECT_EQ(CountOf(page, "<script"), 3u);  // the data, uPlot, the page's own
  EXPECT_EQ(CountOf(page, "</script"), 3u);
  EXPECT_EQ(CountOf(page, "<!--"), 1u);  // the licence
  EXPECT_EQ(CountOf(page, "alert(1)<"), 0u);
  EXPECT_GT(CountOf(page, "&lt;script&gt;alert(1)&lt;/script&gt;&lt;!--&amp;&quot;&#39;"), 15u);
  EXPECT_EQ(DataOf(page)["charts"][0]["title"], kHostile);
  EXPECT_EQ(DataOf(page)["charts"][3]["panels"][0]["phases"][0]["name"], kHostile);
}

TEST(PageTest, HasEveryKindOfChart) {
  const Json data = DataOf(PageOf("plain"));
  ASSERT_EQ(data["charts"].size(), 5u);
  for (const Json& chart : data["charts"]) EXPECT_GE(chart["panels"].size(), 1u) << chart["kind"];
}

TEST(PageTest, RefersToNothingOutside) {
  const std::string page = PageOf("plain");
  EXPECT_TRUE(absl::StrContains(page, "default-src 'none'"));
  for (const char* reference : {" src=", "url(", "@import", "href=\"http", "<link", "<iframe", "fetch(", "XMLHttp"}) {
    EXPECT_FALSE(absl::StrContains(page, reference)) << reference;
  }
}

TEST(PageTest, HasTheSameNumberInTableAndData) {
  const std::string page = PageOf("plain");
  EXPECT_EQ(DataOf(page)["charts"][0]["panels"][0]["series"][0]["places"][0]["median"], 1.25);
  EXPECT_TRUE(absl::StrContains(page, "data-key=\"median\" data-v=\"1.25\">1.25</td>"));
}

TEST(PageTest, SaysWhatIsMissing) {
  const std::string page = PageOf("plain");
  EXPECT_TRUE(absl::StrContains(page, "The chart &quot;plain&quot; is not drawn: its kind"));
  EXPECT_TRUE(absl::StrContains(page, "Left out was what is no JSON: 1 time, first in line 3"));
  EXPECT_TRUE(absl::StrContains(page, "The last line of results.jsonl is unfinished"));
  EXPECT_TRUE(absl::StrContains(page, "Of 2 runs, 1 ended well, 1 was killed and 0 failed."));
}

TEST(PageTest, HasTheLicenceOfWhatDrawsItsCharts) {
  EXPECT_TRUE(absl::StrContains(PageOf("plain"), "The MIT License (MIT)"));
}

TEST(PageTest, TheSameResultsGiveTheSamePage) { EXPECT_EQ(PageOf("plain"), PageOf("plain")); }

TEST(PageTest, WithoutRunsThereIsAPageThatSaysSo) {
  const absl::StatusOr<ExperimentResults> results = ParseResults(R"({"form": 1})", "");
  ASSERT_TRUE(results.ok());
  EXPECT_TRUE(absl::StrContains(Page(*results, {}), "No run has ended yet."));
  EXPECT_EQ(PageVerdict(*results, {}), "Runs\n  No run has ended yet.\n");
}

}  // namespace
}  // namespace quire::results
