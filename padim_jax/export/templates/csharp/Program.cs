// Score PNG photos by the model of this export in ONNX Runtime: one line of JSON for each.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Padim
{
    public static class Program
    {
        private const string Usage =
            "usage: score MODEL.onnx [--cropped] PHOTO.png...\n" +
            "  --cropped: photos are what the network sees already, and are not resized";

        public static int Main(string[] words)
        {
            bool isCropped = words.Length > 1 && words[1] == "--cropped";
            string[] photos = words.Skip(isCropped ? 2 : 1).ToArray();
            if (photos.Length == 0)
            {
                Console.Error.WriteLine(Usage);
                return 2;
            }
            string current = words[0];
            try
            {
                using (var session = new InferenceSession(words[0]))
                {
                    foreach (string photo in photos)
                    {
                        current = photo;
                        Console.WriteLine(Score(session, photo, isCropped));
                    }
                }
            }
            catch (Exception error) when (error is IOException || error is InvalidDataException ||
                                          error is UnauthorizedAccessException || error is OnnxRuntimeException)
            {
                Console.Error.WriteLine($"{current}: {error.Message}");
                return 1;
            }
            return 0;
        }

        private static string Score(InferenceSession session, string path, bool isCropped)
        {
            Photo photo = Png.Read(path);
            if (isCropped && (photo.Height != Settings.CropRows || photo.Width != Settings.CropColumns))
            {
                throw new InvalidDataException("it is not of the crop's size");
            }
            byte[] pixels = isCropped ? photo.Data : Reading.ReadPixels(photo);
            var images = new DenseTensor<byte>(pixels, new[] { 1, Settings.CropRows, Settings.CropColumns, 3 });
            var inputs = new[] { NamedOnnxValue.CreateFromTensor("images", images) };
            string[] names = { "image_score", "p_value", "anomalous", "match" };
            string[] known = names.Where(session.OutputMetadata.ContainsKey).ToArray();
            var line = new StringBuilder("{\"file\": ").Append(Quote(path));
            using (var found = session.Run(inputs, known))
            {
                foreach (DisposableNamedOnnxValue value in found)
                {
                    string text = value.Name == "anomalous"
                        ? (value.AsEnumerable<bool>().First() ? "true" : "false")
                        : value.AsEnumerable<float>().First().ToString("R", CultureInfo.InvariantCulture);
                    line.Append(", \"").Append(value.Name).Append("\": ").Append(text);
                }
            }
            return line.Append('}').ToString();
        }

        private static string Quote(string text)
        {
            IEnumerable<string> letters = text.Select(letter =>
                letter == '"' || letter == '\\' ? "\\" + letter : letter < ' ' ? $"\\u{(int)letter:x4}" : letter.ToString());
            return "\"" + string.Concat(letters) + "\"";
        }
    }
}
