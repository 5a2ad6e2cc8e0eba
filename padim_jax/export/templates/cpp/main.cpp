// Score photos by the model of this export in OpenVINO: one line of JSON for each.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <openvino/openvino.hpp>

#include "photo.hpp"

namespace {

const char* const usage =
    "usage: score --model MODEL.onnx [--cropped] [--expect SCORE --within GAP] PHOTO...\n"
    "  --cropped: photos are what the network sees already, and are not resized\n"
    "  --expect, --within: fail where a score is further off; for tests\n";

struct Options {
    std::string model;
    bool is_cropped = false;
    std::optional<double> expected;
    double within = 0;
    std::vector<std::string> photos;
};

std::optional<Options> parse(int count, char** words) {
    Options options;
    for (int at = 1; at < count; ++at) {
        const std::string word = words[at];
        const bool takes_value = word == "--model" || word == "--expect" || word == "--within";
        if (takes_value && ++at == count) return std::nullopt;
        if (word == "--model") options.model = words[at];
        else if (word == "--expect") options.expected = std::atof(words[at]);
        else if (word == "--within") options.within = std::atof(words[at]);
        else if (word == "--cropped") options.is_cropped = true;
        else if (word.rfind("--", 0) == 0) return std::nullopt;
        else options.photos.push_back(word);
    }
    if (options.model.empty() || options.photos.empty()) return std::nullopt;
    return options;
}

std::string quoted(const std::string& text) {
    std::string found = "\"";
    for (const char letter : text) {
        char escaped[8];
        if (letter == '"' || letter == '\\') found += '\\', found += letter;
        else if (static_cast<unsigned char>(letter) < 0x20) std::snprintf(escaped, 8, "\\u%04x", letter), found += escaped;
        else found += letter;
    }
    return found + '"';
}

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
}

float score(ov::InferRequest& request, const ov::CompiledModel& model, const std::string& path, bool is_cropped) {
    const Photo shown = photo::read(path);
    if (is_cropped && (shown.height != settings::crop_rows || shown.width != settings::crop_columns))
        throw std::runtime_error("it is not of the crop's size");
    std::vector<std::uint8_t> pixels = is_cropped ? shown.data : reading::read_pixels(shown);
    request.set_tensor("images", {ov::element::u8, {1, settings::crop_rows, settings::crop_columns, 3}, pixels.data()});
    request.infer();
    const float found = request.get_tensor("image_score").data<float>()[0];
    std::string line = "{\"file\": " + quoted(path) + ", \"image_score\": " + number(found);
    for (const auto& output : model.outputs()) {
        for (const char* const name : {"p_value", "match"})
            if (output.get_names().count(name))
                line += ", \"" + std::string(name) + "\": " + number(request.get_tensor(output).data<float>()[0]);
        if (output.get_names().count("anomalous"))
            line += std::string(", \"anomalous\": ") + (*static_cast<const char*>(request.get_tensor(output).data()) ? "true" : "false");
    }
    std::cout << line << "}\n";
    return found;
}

}  // namespace

int main(int count, char** words) {
    const auto options = parse(count, words);
    if (!options) {
        std::cerr << usage;
        return 2;
    }
    std::string current = options->model;
    try {
        ov::Core core;
        // by itself it computes in bfloat16 where the processor can
        ov::CompiledModel model = core.compile_model(options->model, "CPU", ov::hint::inference_precision(ov::element::f32));
        ov::InferRequest request = model.create_infer_request();
        for (const std::string& path : options->photos) {
            current = path;
            const float found = score(request, model, path, options->is_cropped);
            if (options->expected && !(std::fabs(found - *options->expected) <= options->within)) {
                std::cerr << path << ": it scores " << number(found) << ", expected " << number(*options->expected) << "\n";
                return 1;
            }
        }
    } catch (const std::exception& error) {
        std::cerr << current << ": " << error.what() << "\n";
        return 1;
    }
    return 0;
}
